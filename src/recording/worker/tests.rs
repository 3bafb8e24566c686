//! The worker on a store and a directory of its own.

use super::*;
use crate::masking::session::RecordFormat;
use crate::recording::mix::tests::write_wav;
use crate::recording::{DirectoryLock, RecordingFile, repair};
use crate::store::{NewRecording, RecordingFilter, Store};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const ACCOUNT: &str = "MAAAAAAAAAAAAAAAAAAA";
const DAY: &str = "2026/11/21";

struct Scene {
    root: PathBuf,
    store: Store,
    recordings: Recordings,
    pool: std::sync::Arc<Pool>,
    _lock: DirectoryLock,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl Scene {
    async fn new() -> Self {
        let root = std::env::temp_dir().join(format!("maskline-worker-{}", Uuid::new_v4()));
        let store = Store::open(&format!("sqlite://{}/m.db", root.display())).await.unwrap();
        let (recordings, lock) = Recordings::open(store.clone(), &root.join("recordings")).await.unwrap();
        let pool = std::sync::Arc::new(Pool::start(1).unwrap());
        Self { root, store, recordings, pool, _lock: lock }
    }

    fn directory(&self) -> PathBuf {
        self.root.join("recordings")
    }

    fn folder(&self, uuid: Uuid) -> PathBuf {
        self.directory().join(DAY).join(uuid.to_string())
    }

    /// Two files of a call, without a manifest.
    fn sound(&self, uuid: Uuid, samples: usize) {
        let folder = self.folder(uuid);
        fs::create_dir_all(&folder).unwrap();
        write_wav(&folder.join("a-leg.wav"), &vec![100; samples]);
        write_wav(&folder.join("b-leg.wav"), &vec![23; samples]);
    }

    async fn row(&self, uuid: Uuid, samples: u64, added_at: Timestamp) {
        let new = NewRecording {
            interaction: uuid,
            account: Some(ACCOUNT.into()),
            session: None,
            call: Some(Uuid::from_u128(7)),
            place: self.recordings.inner.place.clone(),
            directory: format!("{DAY}/{uuid}"),
            format: RecordFormat::Wav,
            added_at,
            started_at: Some(added_at),
            samples,
            sample_rate_hz: 8000,
            complete: true,
        };
        self.store.add_recording(new).await.unwrap();
    }

    async fn find(&self, uuid: Uuid) -> Recording {
        self.store.find_recording(ACCOUNT, None, uuid).await.unwrap().unwrap()
    }

    /// Does everything that is due, once.
    async fn work(&self) {
        let place = &self.recordings.inner.place;
        for recording in self.store.due_recordings(place, clock::wall_now(), 100).await.unwrap() {
            one(&self.recordings, &self.pool, recording).await.unwrap();
        }
    }

    fn worker(&self, retention: Option<Duration>) -> Worker {
        Worker {
            recordings: self.recordings.clone(),
            retention,
            threads: 1,
            running: JoinSet::new(),
            busy: HashSet::new(),
            sweep_at: clock::now(),
        }
    }
}

fn manifest_of(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join("call.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn a_pending_recording_becomes_one_that_can_be_fetched() {
    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.sound(uuid, 16_000);
    scene.row(uuid, 16_000, at(100)).await;
    let pending = scene.find(uuid).await;
    let mixed = RecordingFile::Mixed(RecordFormat::Wav);
    for file in [mixed, RecordingFile::CallerLeg] {
        assert_eq!(scene.recordings.path(&pending, file).await.unwrap(), None, "{file:?}");
    }
    let filter = RecordingFilter::default();
    assert_eq!(scene.store.list_recordings(ACCOUNT, &filter, 20, 0).await.unwrap().1, 0);
    scene.work().await;
    let ready = scene.find(uuid).await;
    assert_eq!((ready.state, ready.duration_ms(), ready.attempts), (RecordingState::Ready, 2000, 0));
    let path = scene.recordings.path(&ready, mixed).await.unwrap().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), ready.bytes.unwrap());
    assert_eq!(manifest_of(&scene.folder(uuid))["mixed"]["sha256"], ready.sha256.clone().unwrap());
    assert_eq!(scene.store.list_recordings(ACCOUNT, &filter, 20, 0).await.unwrap().1, 1);
    assert_eq!(scene.store.find_recording("MAOTHER", None, uuid).await.unwrap(), None);
    // It ends once, whatever is said again.
    let done =
        RecordingDone { interaction: uuid, delivered: None, at: Timestamp::UNIX_EPOCH, base: String::new() };
    assert_eq!(scene.store.recording_done(done).await.unwrap(), None);
    assert_eq!(scene.find(uuid).await, ready);
    let as_mp3 = RecordingFile::Mixed(RecordFormat::Mp3);
    assert_eq!(scene.recordings.path(&ready, as_mp3).await.unwrap(), None, "only what is delivered");
}

#[tokio::test]
async fn what_a_kill_cut_off_is_done_again() {
    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.sound(uuid, 16_000);
    scene.row(uuid, 16_000, at(100)).await;
    // Half a mix, and half a manifest beside it.
    fs::write(scene.folder(uuid).join("call.part"), "half").unwrap();
    fs::write(scene.folder(uuid).join("call.json.part"), "{").unwrap();
    scene.work().await;
    let mut left: Vec<_> =
        fs::read_dir(scene.folder(uuid)).unwrap().map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a-leg.wav", "b-leg.wav", "call.json", "call.wav"]);
    assert_eq!(scene.find(uuid).await.state, RecordingState::Ready);
}

#[tokio::test]
async fn a_recording_without_its_files_fails_at_once_and_for_good() {
    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.row(uuid, 16_000, at(100)).await;
    scene.work().await;
    assert_eq!(scene.find(uuid).await.state, RecordingState::Failed);
    let due = scene.store.due_recordings(&scene.recordings.inner.place, Timestamp::MAX, 10).await.unwrap();
    assert_eq!(due, []);
}

#[tokio::test]
async fn what_may_work_later_is_tried_later_and_given_up_after_a_day() {
    let waits: Vec<_> = (0..MAX_ATTEMPTS).map(retry_after_s).collect();
    assert_eq!(waits[..4], [5, 10, 20, 40]);
    assert!(waits.iter().all(|wait| (1..=3600).contains(wait)));
    let total: i64 = waits.iter().sum();
    assert!((80_000..100_000).contains(&total), "{total}");

    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.sound(uuid, 800);
    scene.row(uuid, 800, at(100)).await;
    // A folder stands where the file should be written: that stops root as well.
    fs::create_dir_all(scene.folder(uuid).join("call.part/x")).unwrap();
    let place = scene.recordings.inner.place.clone();
    scene.work().await;
    let waiting = scene.find(uuid).await;
    assert_eq!((waiting.state, waiting.attempts), (RecordingState::Pending, 1));
    assert_eq!(scene.store.due_recordings(&place, clock::wall_now(), 10).await.unwrap(), []);
    scene.store.postpone_recording(uuid, MAX_ATTEMPTS, at(0)).await.unwrap();
    scene.work().await;
    let failed = scene.find(uuid).await;
    assert_eq!(failed.state, RecordingState::Failed);
    let leg = scene.recordings.path(&failed, RecordingFile::CallerLeg).await.unwrap();
    assert!(leg.is_some_and(|leg| leg.exists()), "what there is can still be fetched");
}

#[tokio::test]
async fn a_deletion_is_seen_at_once_and_done_even_after_a_crash() {
    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.sound(uuid, 800);
    scene.row(uuid, 800, at(100)).await;
    assert!(!scene.store.delete_recording(ACCOUNT, None, uuid, at(200)).await.unwrap(), "not there yet");
    scene.work().await;
    assert!(!scene.store.delete_recording("MAOTHER", None, uuid, at(200)).await.unwrap());
    assert!(scene.store.delete_recording(ACCOUNT, None, uuid, at(200)).await.unwrap());
    assert!(!scene.store.delete_recording(ACCOUNT, None, uuid, at(200)).await.unwrap());
    let deleted = scene.find(uuid).await;
    assert_eq!(deleted.state, RecordingState::Deleted);
    for file in [RecordingFile::Mixed(RecordFormat::Wav), RecordingFile::CallerLeg] {
        assert_eq!(scene.recordings.path(&deleted, file).await.unwrap(), None);
    }
    // The crash came after half of its files: neither the start nor the retention takes it up again.
    fs::remove_file(scene.folder(uuid).join("call.json")).unwrap();
    assert_eq!(repair::unfinished(&scene.recordings).await.unwrap(), 0);
    scene.work().await;
    assert!(!scene.folder(uuid).exists());
    assert_eq!(scene.find(uuid).await.state, RecordingState::Removed);
}

#[tokio::test]
async fn the_retention_removes_what_is_older_and_nothing_else() {
    let scene = Scene::new().await;
    let now = clock::wall_now().as_second();
    let (old, young) = (Uuid::new_v4(), Uuid::new_v4());
    let day = 86_400;
    for (uuid, age) in [(old, 2 * day + 60), (young, 2 * day - 60)] {
        scene.sound(uuid, 80);
        scene.row(uuid, 80, at(now - age)).await;
    }
    scene.work().await;
    scene.worker(None).sweep().await.unwrap();
    assert_eq!(scene.find(old).await.state, RecordingState::Ready, "0 keeps for ever");
    scene.worker(Some(Duration::from_secs(2 * 86_400))).sweep().await.unwrap();
    assert_eq!(scene.find(old).await.state, RecordingState::Deleted);
    scene.work().await;
    assert!(!scene.folder(old).exists() && scene.folder(young).exists());
    assert_eq!(scene.find(young).await.state, RecordingState::Ready);
}

#[tokio::test]
async fn many_old_recordings_go_in_bounded_steps() {
    let scene = Scene::new().await;
    for _ in 0..250 {
        scene.row(Uuid::new_v4(), 80, at(100)).await;
    }
    let place = scene.recordings.inner.place.clone();
    let mut steps = vec![];
    while steps.last() != Some(&0) {
        steps.push(scene.store.expire_recordings(&place, at(101), at(200)).await.unwrap());
    }
    assert_eq!(steps, [100, 100, 50, 0]);
    assert_eq!(scene.store.expire_recordings("elsewhere", at(101), at(200)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_removal_that_would_leave_the_directory_is_refused() {
    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.sound(uuid, 80);
    scene.row(uuid, 80, at(100)).await;
    scene.work().await;
    // The recording's day has become a link to another place.
    let elsewhere = scene.root.join("elsewhere");
    fs::rename(scene.directory().join(DAY), &elsewhere).unwrap();
    symlink(&elsewhere, scene.directory().join(DAY)).unwrap();
    scene.store.delete_recording(ACCOUNT, None, uuid, at(200)).await.unwrap();
    scene.work().await;
    assert!(elsewhere.join(uuid.to_string()).join("a-leg.wav").exists());
    let waiting = scene.find(uuid).await;
    assert_eq!((waiting.state, waiting.attempts), (RecordingState::Deleted, 1));
}

#[tokio::test]
async fn a_start_files_what_has_no_row_and_mends_what_has_no_manifest() {
    let scene = Scene::new().await;
    let (bare, filed, known) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    for uuid in [bare, filed, known] {
        scene.sound(uuid, 800);
    }
    scene.row(known, 800, at(100)).await;
    let report = media::recorder::repair(&scene.folder(filed)).unwrap().unwrap();
    let started_at = Some(at(1_795_300_000));
    let names = Names { interaction: filed, started_at, ..Names::default() };
    crate::recording::manifest::write(&names, &report).unwrap();
    fs::create_dir_all(scene.directory().join(DAY).join("not-a-recording")).unwrap();
    assert_eq!(repair::unfinished(&scene.recordings).await.unwrap(), 1, "the bare one");
    assert_eq!(repair::unfinished(&scene.recordings).await.unwrap(), 0);
    assert_eq!(manifest_of(&scene.folder(bare))["interaction_uuid"], bare.to_string());
    let place = &scene.recordings.inner.place;
    let due = scene.store.due_recordings(place, Timestamp::MAX, 10).await.unwrap();
    let mut due: Vec<_> = due.iter().map(|one| (one.new.interaction, one.new.added_at)).collect();
    let day = "2026-11-21T00:00:00Z".parse().unwrap();
    let mut expected = vec![(bare, day), (filed, at(1_795_300_000)), (known, at(100))];
    due.sort();
    expected.sort();
    assert_eq!(due, expected, "their age counts from the call");
    scene.work().await;
    assert!(scene.folder(known).join("call.json").exists() && scene.folder(bare).join("call.mp3").exists());
}

#[tokio::test]
async fn the_task_itself_mixes_what_is_filed() {
    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.sound(uuid, 8000);
    let task = tokio::spawn(run(scene.recordings.clone(), None));
    let report = media::recorder::repair(&scene.folder(uuid)).unwrap().unwrap();
    let names = Names { interaction: uuid, account: Some(ACCOUNT.into()), ..Names::default() };
    scene.recordings.file(names, report, clock::wall_now()).await.unwrap();
    let ready = async {
        while scene.find(uuid).await.state != RecordingState::Ready {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.unwrap();
    task.abort();
}

#[tokio::test]
async fn files_of_another_process_are_found_by_its_place() {
    let scene = Scene::new().await;
    let uuid = Uuid::new_v4();
    scene.sound(uuid, 80);
    scene.row(uuid, 80, at(100)).await;
    scene.work().await;
    let other = scene.root.join("other");
    let (other, _lock) = Recordings::open(scene.store.clone(), &other).await.unwrap();
    let ready = scene.find(uuid).await;
    let found = other.path(&ready, RecordingFile::CalleeLeg).await.unwrap().unwrap();
    assert_eq!(
        fs::canonicalize(found).unwrap(),
        fs::canonicalize(scene.folder(uuid).join("b-leg.wav")).unwrap()
    );
    // But its jobs are not done by others.
    assert_eq!(scene.store.due_recordings(&other.inner.place, Timestamp::MAX, 10).await.unwrap(), []);
}
