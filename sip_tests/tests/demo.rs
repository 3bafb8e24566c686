//! `maskline demo` finds nothing wrong with the service, and finds what is put wrong on purpose.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

use maskline::demo::{Fault, run};

/// All three at once: each takes the time that people take to talk.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_passes_and_notices_every_fault() {
    tokio::join!(
        passes(),
        notices(Fault::LeakedHeader, "Alice's number or name"),
        notices(Fault::SwappedLegs, ".wav holds what"),
    );
}

async fn passes() {
    let report = run(None).await.unwrap();
    assert!(report.passed(), "{}", report.text());
}

/// The checks that fail are the ones that this fault is about.
async fn notices(fault: Fault, check: &str) {
    let report = run(Some(fault)).await.unwrap();
    let text = report.text();
    assert!(!report.passed(), "{text}");
    let failed: Vec<_> = text.lines().filter(|line| line.trim_start().starts_with("FAILED")).collect();
    assert!(!failed.is_empty() && failed.iter().all(|line| line.contains(check)), "{failed:?}");
}
