//! How calls sounded, told to whoever watches the service: metrics and log. No number is in either.

use crate::store::{Cdr, LegQuality};
use media::quality::Trouble;
use media::{CallStatistics, Codec, LegStatistics, MediaEvent, Side};
use std::fmt;
use std::num::NonZeroU64;
use tracing::warn;
use uuid::Uuid;

/// Upper bounds of each histogram's buckets.
pub const BUCKETS: [(&str, &[f64]); 4] = [
    ("maskline_leg_mos", &[1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0, 4.2, 4.3, 4.4]),
    ("maskline_leg_loss_ratio", &[0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]),
    ("maskline_leg_jitter_seconds", &[0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2]),
    ("maskline_leg_round_trip_seconds", &[0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]),
];

/// Something that the media of a call told: what is to be counted of it is counted, and a trouble is logged.
pub(super) fn observe(event: &MediaEvent, interaction: Uuid) {
    match event {
        MediaEvent::Trouble(trouble) => on_trouble(*trouble, interaction),
        MediaEvent::Closed(figures) => on_closed(figures),
        _ => {}
    }
}

fn on_trouble(trouble: Trouble, interaction: Uuid) {
    let (kind, side) = match trouble {
        Trouble::Silent(side) => ("silent", side),
        Trouble::Unheard(side) => ("unheard", side),
    };
    let leg = name(side);
    metrics::counter!("maskline_audio_troubles_total", "kind" => kind, "leg" => leg).increment(1);
    match trouble {
        Trouble::Silent(_) => warn!(%interaction, leg, "no audio comes from this leg"),
        Trouble::Unheard(_) => {
            warn!(%interaction, leg, "one-way audio: this leg hears nothing of the other one, which hears it");
        }
    }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::A => "a",
        Side::B => "b",
    }
}

fn on_closed(figures: &CallStatistics) {
    let unauthentic = figures.a.unauthentic.saturating_add(figures.b.unauthentic);
    if let Some(count) = NonZeroU64::new(unauthentic) {
        metrics::counter!("maskline_media_unauthentic_total").increment(count.get());
    }
    for (figures, side) in [(&figures.a, Side::A), (&figures.b, Side::B)] {
        on_leg_closed(figures, name(side));
    }
}

fn on_leg_closed(figures: &LegStatistics, leg: &'static str) {
    // In units of 125 µs.
    let seconds = |units: u32| f64::from(units) / 8000.0;
    let ratio = |lost: u64, of: u64| lost as f64 / of as f64;
    let codec = figures.codec.map_or("", Codec::name);
    if figures.stream.expected > 0 {
        let mos = metrics::histogram!("maskline_leg_mos", "leg" => leg, "way" => "in", "codec" => codec);
        figures.mos.into_iter().for_each(|score| mos.record(score.value()));
        metrics::histogram!("maskline_leg_loss_ratio", "leg" => leg, "way" => "in")
            .record(ratio(figures.stream.lost, figures.stream.expected));
        metrics::histogram!("maskline_leg_jitter_seconds", "leg" => leg, "way" => "in")
            .record(seconds(figures.stream.mean_jitter));
    }
    if figures.remote_expected > 0 {
        let mos = metrics::histogram!("maskline_leg_mos", "leg" => leg, "way" => "out", "codec" => codec);
        figures.remote_mos.into_iter().for_each(|score| mos.record(score.value()));
        let lost = u64::try_from(figures.remote_lost).unwrap_or(0);
        metrics::histogram!("maskline_leg_loss_ratio", "leg" => leg, "way" => "out")
            .record(ratio(lost, figures.remote_expected).min(1.0));
        metrics::histogram!("maskline_leg_jitter_seconds", "leg" => leg, "way" => "out")
            .record(seconds(figures.remote_jitter));
    }
    if let Some(trip) = figures.round_trip {
        metrics::histogram!("maskline_leg_round_trip_seconds", "leg" => leg).record(trip.as_secs_f64());
    }
}

/// What the log says of a leg when its call is over.
pub(super) struct LegSound<'a> {
    quality: &'a LegQuality,
    received: u64,
    lost: u64,
}

impl<'a> LegSound<'a> {
    /// Of the last leg on this side; `None` when it had no packets.
    pub(super) fn of(cdr: &'a Cdr, side: Side) -> Option<Self> {
        let leg = cdr.legs.iter().rev().find(|leg| leg.opened.side == side)?;
        Some(Self { quality: leg.quality.as_ref()?, received: leg.packets_received, lost: leg.packets_lost })
    }
}

impl fmt::Display for LegSound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quality, received, lost } = self;
        if let Some(mos) = quality.mos {
            write!(f, "MOS {mos}, ")?;
        }
        write!(f, "{received} packets, {lost} lost, jitter {} ms", quality.mean_jitter / 1000)?;
        if let Some(mos) = quality.remote_mos {
            write!(f, ", heard with MOS {mos}")?;
        }
        if let Some(trip) = quality.round_trip {
            write!(f, ", round trip {} ms", trip / 1000)?;
        }
        if quality.silences > 0 {
            write!(f, ", silent {} times", quality.silences)?;
        }
        if quality.unheard > 0 {
            write!(f, ", heard nothing {} times", quality.unheard)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::quality::Mos;
    use media::rtp::Received;
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

    fn figures() -> LegStatistics {
        LegStatistics {
            received: 990,
            sent: 1000,
            stream: Received { expected: 1000, lost: 10, mean_jitter: 24, ..Received::default() },
            codec: Some(Codec::Pcma),
            mos: Some(Mos::from_hundredths(425)),
            remote_expected: 900,
            remote_lost: 9,
            remote_jitter: 16,
            remote_mos: Some(Mos::from_hundredths(410)),
            round_trip: Some(std::time::Duration::from_millis(31)),
            silences: 1,
            ..LegStatistics::default()
        }
    }

    #[test]
    fn a_calls_end_is_counted_in_histograms_whose_labels_name_nobody() {
        let mut builder = PrometheusBuilder::new();
        for (name, buckets) in BUCKETS {
            builder = builder.set_buckets_for_metric(Matcher::Full(name.into()), buckets).unwrap();
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let figures = CallStatistics { a: figures(), b: LegStatistics::default() };
            observe(&MediaEvent::Closed(figures), Uuid::nil());
            observe(&MediaEvent::Trouble(Trouble::Unheard(Side::B)), Uuid::nil());
        });
        let text = handle.render();
        for line in [
            "maskline_leg_mos_bucket{leg=\"a\",way=\"in\",codec=\"PCMA\",le=\"4.2\"} 0",
            "maskline_leg_mos_bucket{leg=\"a\",way=\"in\",codec=\"PCMA\",le=\"4.3\"} 1",
            "maskline_leg_loss_ratio_bucket{leg=\"a\",way=\"in\",le=\"0.01\"} 1",
            "maskline_leg_loss_ratio_bucket{leg=\"a\",way=\"out\",le=\"0.005\"} 0",
            "maskline_leg_jitter_seconds_bucket{leg=\"a\",way=\"in\",le=\"0.002\"} 0",
            "maskline_leg_jitter_seconds_bucket{leg=\"a\",way=\"in\",le=\"0.005\"} 1",
            "maskline_leg_round_trip_seconds_bucket{leg=\"a\",le=\"0.05\"} 1",
            "maskline_audio_troubles_total{kind=\"unheard\",leg=\"b\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("leg_mos_sum{leg=\"b\""), "a leg without packets is not rated: {text}");
    }

    #[test]
    fn the_log_says_how_a_leg_sounded() {
        let quality = LegQuality::of(&figures()).unwrap();
        let said = LegSound { quality: &quality, received: 990, lost: 10 }.to_string();
        assert_eq!(
            said,
            "MOS 4.25, 990 packets, 10 lost, jitter 3 ms, heard with MOS 4.10, round trip 31 ms, silent 1 times"
        );
        assert_eq!(LegQuality::of(&LegStatistics::default()), None, "nothing came and nothing went");
    }
}
