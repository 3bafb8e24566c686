//! What the service logs, on every level.

// Parts of one test.
#![allow(unreachable_pub)]

use std::sync::{Arc, Mutex, OnceLock};
use tracing::field::{Field, Visit};
use tracing::span;

/// The log, every level of it.
#[derive(Default)]
pub struct Log(Mutex<Vec<u8>>);

impl Log {
    pub fn write(&self, text: &str) {
        self.0.lock().unwrap().extend_from_slice(text.as_bytes());
    }

    /// What the whole process logs from the first call of this on.
    pub fn of_process() -> &'static Arc<Self> {
        static LOG: OnceLock<Arc<Log>> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Arc::new(Self::default());
            tracing::subscriber::set_global_default(Capture(Arc::clone(&log))).unwrap();
            log
        })
    }

    pub fn text(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

pub struct Capture(pub Arc<Log>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Capture {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        !metadata.target().starts_with("sip_tests")
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut line = Line(format!("span {}", attributes.metadata().name()));
        attributes.record(&mut line);
        self.0.write(&format!("{}\n", line.0));
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, values: &span::Record<'_>) {
        let mut line = Line("record".to_owned());
        values.record(&mut line);
        self.0.write(&format!("{}\n", line.0));
    }

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        self.0.write(&format!("{}\n", line.0));
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}
