//! `maskline demo` finds nothing wrong with the service, and finds what is put wrong on purpose.

use maskline::demo::{Fault, run};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_passes() {
    let report = run(None).await.unwrap();
    assert!(report.passed(), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_header_is_noticed() {
    assert_noticed(Fault::LeakedHeader, "Alice's number or name").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_recordings_are_noticed() {
    assert_noticed(Fault::SwappedLegs, ".wav holds what").await;
}

async fn assert_noticed(fault: Fault, check: &str) {
    let report = run(Some(fault)).await.unwrap();
    let text = report.text();
    assert!(!report.passed(), "{text}");
    let failed: Vec<_> = text.lines().filter(|line| line.trim_start().starts_with("FAILED")).collect();
    assert!(!failed.is_empty() && failed.iter().all(|line| line.contains(check)), "{failed:?}");
}
