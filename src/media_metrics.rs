//! What the media engine counts, at `/metrics`. Packets cost no counter of their own: the engine's sums are copied now
//! and then.

use crate::clock;
use media::engine::{Engine, EngineStatistics};
use std::time::Duration;

/// How often; a scrape is rarely more frequent.
const PERIOD: Duration = Duration::from_secs(5);

/// Copies for as long as it is polled.
pub(crate) async fn run(engine: Engine) {
    loop {
        tell(&engine.statistics());
        clock::sleep(PERIOD).await;
    }
}

fn tell(told: &EngineStatistics) {
    for (name, value) in [
        ("maskline_media_packets_received_total", told.received),
        ("maskline_media_packets_relayed_total", told.relayed),
        ("maskline_media_packets_sent_total", told.sent),
        ("maskline_media_packets_foreign_total", told.foreign),
        ("maskline_media_packets_unsent_total", told.unsent),
        ("maskline_media_packets_overrun_total", told.overrun),
        ("maskline_media_packets_unrecorded_total", told.unrecorded),
        ("maskline_media_ports_taken_early_total", told.ports_taken_early),
    ] {
        metrics::counter!(name).absolute(value);
    }
    for (name, value) in [
        ("maskline_media_calls", told.calls),
        ("maskline_media_ports_in_use", told.ports_in_use),
        ("maskline_media_ports_available", told.ports_available),
        ("maskline_media_recordings", told.recordings),
        ("maskline_media_threads_on_io_uring", told.on_io_uring),
    ] {
        metrics::gauge!(name).set(value as f64);
    }
}
