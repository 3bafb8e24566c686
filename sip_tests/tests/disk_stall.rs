//! A disk that answers nothing for a while: both parties hear each other as before, and the recording has it all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::Setup;
use common::talk::{Pair, compare, hang_up, length_of, manifest, more_packets, more_sent, wav};
use serde_json::json;
use sip_tests::audio::{Voice, speech};
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
    let output = Command::new(program).args(arguments).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

/// A file system of its own that can be frozen: whoever writes then waits in the kernel. Only root can make one.
struct StallingDisk {
    image: PathBuf,
    path: PathBuf,
}

impl StallingDisk {
    fn mount() -> Option<Self> {
        let name = format!("maskline-stall-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(&name);
        let disk = Self { image: path.with_extension("image"), path };
        std::fs::create_dir(&disk.path).unwrap();
        std::fs::File::create(&disk.image).unwrap().set_len(32 << 20).unwrap();
        let image = disk.image.to_str().unwrap();
        let made =
            run("mkfs.ext4", &["-q", "-F"], &disk.image) && run("mount", &["-o", "loop", image], &disk.path);
        // What cannot be frozen is of no use.
        (made && disk.freeze() && disk.thaw()).then_some(disk)
    }

    fn freeze(&self) -> bool {
        run("fsfreeze", &["--freeze"], &self.path)
    }

    fn thaw(&self) -> bool {
        run("fsfreeze", &["--unfreeze"], &self.path)
    }
}

impl Drop for StallingDisk {
    fn drop(&mut self) {
        // Nothing but this would let go of those who wait.
        let _ = self.thaw();
        let _ = run("umount", &["--lazy"], &self.path);
        let _ = std::fs::remove_dir(&self.path);
        let _ = std::fs::remove_file(&self.image);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stalls_during_the_call() {
    let Some(disk) = StallingDisk::mount() else {
        eprintln!("SKIPPED: no disk that can stall is to be had without being root");
        return;
    };
    let recordings = disk.path.join("recordings");
    let pair = Pair::with(Setup { recordings: Some(recordings.clone()), ..Setup::default() }).await;
    let session = pair.server.session(json!({})).await;
    let (call, incoming) = pair.talk(&session).await;
    let (low, high) = (speech(Voice::Low, 61, 2500), speech(Voice::High, 62, 2500));
    more_packets(call.media(), 25).await;
    assert!(disk.freeze());
    let stalled = async {
        // Nothing of this would come if anything live waited for the disk.
        more_packets(call.media(), 100).await;
        more_packets(incoming.media(), 25).await;
    };
    tokio::join!(call.media().play(&low), incoming.media().play(&high), stalled);
    assert!(disk.thaw());
    more_sent(call.media(), 25).await;
    assert_eq!((call.end(), incoming.end()), (None, None));
    hang_up(&call, &incoming).await;
    for (from, to) in [(call.media(), incoming.media()), (incoming.media(), call.media())] {
        let found = compare(&from.sent_audio(), &to.received_audio());
        assert!(found.is_same(), "{found:?}");
    }

    let records = pair.records(&session).await;
    let recording = records[0].recording.as_ref().unwrap();
    assert!(recording.complete, "what came during the stall was kept until it could be written");
    let folder = recordings.join(&recording.directory);
    let (a, b) = (wav(&folder, "a-leg.wav"), wav(&folder, "b-leg.wav"));
    assert_eq!(a.len(), b.len());
    let apart = a.len() as f64 / 8.0 - length_of(&records[0]).as_secs_f64() * 1000.0;
    assert!(apart.abs() <= 20.0, "{apart} ms from the call's length");
    for (samples, sent) in [(&a, call.media()), (&b, incoming.media())] {
        let found = compare(&sent.sent_audio(), samples);
        assert!(found.is_same(), "{found:?}");
    }
    pair.server.delivered(&folder).await;
    let manifest = manifest(&folder);
    for leg in 0..2 {
        assert_eq!(manifest["legs"][leg]["lost"], json!([]), "{manifest}");
    }
}
