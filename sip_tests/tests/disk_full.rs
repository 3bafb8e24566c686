//! A disk that takes no more: the call goes on, its recording is marked, an error is logged once, the record is kept.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, compare, hang_up, length_of, more_packets, more_sent, wav};
use common::{Setup, folders, until};
use serde_json::json;
use sip_tests::audio::{Voice, speech};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, Once};

static LOG: Mutex<Vec<u8>> = Mutex::new(vec![]);

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn capture_log() {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| ToLog).init());
}

/// Errors that name something below `path`.
fn errors(path: &Path) -> Vec<String> {
    let log = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
    let path = path.display().to_string();
    log.lines().filter(|line| line.contains(" ERROR ") && line.contains(&path)).map(str::to_owned).collect()
}

/// A small disk of its own, as only root can make one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("maskline-disk-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        let _ = std::fs::remove_dir(&path);
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_during_the_call() {
    capture_log();
    let Some(disk) = SmallDisk::mount("128k") else {
        eprintln!("SKIPPED: no small disk can be mounted without being root");
        return;
    };
    let setup = Setup { recordings: Some(disk.0.clone()), ..Setup::default() };
    let pair = Pair::with(setup).await;
    let session = pair.server.session(json!({})).await;
    let (call, incoming) = pair.talk(&session).await;
    // Both files take 32 kB of each second.
    let (low, high) = (speech(Voice::Low, 91, 5000), speech(Voice::High, 92, 5000));
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    until("the disk is full", || (!errors(&disk.0).is_empty()).then_some(())).await;
    // The call goes on as if nothing had happened.
    let last = speech(Voice::Low, 93, 1000);
    call.media().play(&last).await;
    more_sent(call.media(), 10).await;
    assert_eq!((call.end(), incoming.end()), (None, None));
    hang_up(&call, &incoming).await;
    let found = compare(&call.media().sent_audio(), &incoming.media().received_audio());
    assert!(found.is_same(), "{found:?}");

    let records = pair.records(&session).await;
    assert_eq!(records[0].legs.len(), 2);
    assert!(records[0].legs.iter().all(|leg| leg.ended_at.is_some()));
    let recording = records[0].recording.as_ref().unwrap();
    assert!(!recording.complete, "the record says that something is missing");
    let folder = disk.0.join(&recording.directory);
    let (a, b) = (wav(&folder, "a-leg.wav"), wav(&folder, "b-leg.wav"));
    assert_eq!(a.len(), b.len(), "what is missing is silence");
    let apart = a.len() as f64 / 8.0 - length_of(&records[0]).as_secs_f64() * 1000.0;
    assert!(apart.abs() <= 20.0, "{apart} ms from the call's length; a: {}", a.len());
    // What was written before is what was said.
    let found = compare(&call.media().sent_audio()[..8000], &a);
    assert!(found.is_same(), "{found:?}");
    // The manifest had no room either, nor has the mixed file. With room again both are made, without a restart.
    assert!(!folder.join("call.mp3").exists());
    let _ = Command::new("mount").args(["-o", "remount,size=4m"]).arg(&disk.0).status();
    let delivered = pair.server.delivered(&folder).await;
    assert_eq!(delivered["complete"], json!(false));
    let manifest = common::talk::manifest(&folder);
    assert_eq!(manifest["mixed"]["sha256"], delivered["sha256"]);
    for (index, side) in [media::Side::A, media::Side::B].into_iter().enumerate() {
        let leg = records[0].legs.iter().find(|leg| leg.opened.side == side).unwrap();
        assert_eq!(manifest["legs"][index]["leg_uuid"], leg.opened.leg.to_string());
    }
    assert!(manifest["started_at"].is_string());
    assert_eq!((&manifest["complete"], &manifest["samples"]), (&json!(false), &json!(a.len())));
    let errors = errors(&disk.0);
    assert_eq!(errors.len(), 1, "{errors:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recordings_directory_that_cannot_be_written() {
    capture_log();
    // A file stands where the directory should be: that stops root as well.
    let file = std::env::temp_dir().join(format!("maskline-no-disk-{:016x}", rand::random::<u64>()));
    std::fs::write(&file, "in the way").unwrap();
    let setup = Setup { recordings: Some(file.join("recordings")), ..Setup::default() };
    let pair = Pair::with(setup).await;
    let session = pair.server.session(json!({})).await;
    for call_number in 1..=2 {
        let (call, incoming) = pair.talk(&session).await;
        more_packets(incoming.media(), 25).await;
        more_packets(call.media(), 25).await;
        hang_up(&call, &incoming).await;
        let records = pair.records(&session).await;
        assert_eq!(records.len(), call_number);
        assert!(records.iter().all(|record| record.recording.as_ref().is_some_and(|it| !it.complete)));
        assert!(records.iter().flat_map(|record| &record.legs).all(|leg| leg.ended_at.is_some()));
        let errors = errors(&file);
        assert_eq!(errors.len(), call_number, "one for each call: {errors:#?}");
    }
    assert!(folders(&file).is_empty());
    std::fs::remove_file(&file).unwrap();
}
