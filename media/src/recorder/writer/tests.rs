//! Both files of a call as its writer keeps them, and the recorder as a whole.

use super::*;
use crate::recorder::file::SystemDisk;
use crate::recorder::testing::{FaultyDisk, Folder, Session, Speaker, read};
use crate::recorder::{MAX_BLOCKS, Recorder, repair};
use crate::rtp::Header;
use crate::{Codec, RecordingReport};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

fn at(ms: u64) -> MediaTime {
    MediaTime::from_samples(1_000_000 + milliseconds(ms))
}

fn header(number: u16) -> Header {
    let timestamp = 77 + u32::from(number) * 160;
    Header { marker: number == 0, payload_type: 0, sequence: number, timestamp, ssrc: 5 }
}

/// The coded audio of a frame; no two neighbours are alike.
fn payload(number: u16) -> Vec<u8> {
    (0..160u16).map(|index| number.wrapping_mul(31).wrapping_add(index) as u8).collect()
}

fn decoded(codec: Codec, numbers: impl Iterator<Item = u16>) -> Vec<i16> {
    numbers.flat_map(payload).map(|code| g711::decode_sample(codec.law().unwrap(), code)).collect()
}

fn record(side: Side, number: u16, codec: Codec, ms: u64) -> Record {
    let content = Content::Audio(codec, 160);
    Record { id: RecordingId { number: 0, slot: 0 }, side, at: at(ms), header: header(number), content }
}

fn sink() -> (EventSink, Arc<Mutex<Vec<MediaEvent>>>) {
    let heard = Arc::new(Mutex::new(vec![]));
    let events = heard.clone();
    (Arc::new(move |event| events.lock().unwrap().push(event)), heard)
}

fn begin(directory: &Path, wideband: bool, events: EventSink) -> Recording {
    let files =
        Files { directory: directory.to_owned(), disk: Arc::new(SystemDisk), unwritten: Arc::default() };
    Recording::begin(files, wideband, events, at(0))
}

#[test]
fn the_files_are_playable_at_any_moment_and_lose_less_than_a_second() {
    let folder = Folder::new();
    let directory = folder.path().join("2026/11/21/uuid");
    let (events, heard) = sink();
    let mut recording = begin(&directory, false, events);
    assert_eq!(read(&directory.join(A_LEG)), [], "valid from the start");
    for number in 0..100u16 {
        let ms = u64::from(number) * 20;
        recording.take(&record(Side::A, number, Codec::Pcmu, ms), &payload(number));
        recording.take(&record(Side::B, number, Codec::Pcma, ms), &payload(number));
        if number % 12 == 0 {
            recording.flush(at(ms), true);
            for (name, codec) in [(A_LEG, Codec::Pcmu), (B_LEG, Codec::Pcma)] {
                let samples = read(&directory.join(name));
                assert!(samples.len() as u64 + milliseconds(620) >= milliseconds(ms), "{ms} ms");
                assert_eq!(samples, decoded(codec, 0..100)[..samples.len()]);
            }
        }
    }
    // A crash: nothing is finished. What was flushed is there and can be mended.
    std::mem::forget(recording);
    let report = repair(&directory).unwrap().unwrap();
    assert!(report.samples >= milliseconds(1300));
    assert!(heard.lock().unwrap().is_empty());
}

#[test]
fn folders_and_files_have_their_modes_and_never_replace_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let directory = folder.path().join("day/uuid");
    let (events, heard) = sink();
    let _first = begin(&directory, false, events.clone());
    // The tests' umask may take bits away but adds none.
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (path, most) in
        [(directory.clone(), 0o750), (folder.path().join("day"), 0o750), (directory.join(A_LEG), 0o640)]
    {
        assert_eq!(mode(&path) & !most, 0, "{}", path.display());
        assert_eq!(mode(&path) & 0o600, 0o600);
    }
    let _second = begin(&directory, false, events);
    assert_eq!(*heard.lock().unwrap(), [MediaEvent::RecordingFailed]);
}

/// Waits, within bounds, for what other threads report.
fn wait_for(heard: &Mutex<Vec<MediaEvent>>, count: usize) -> Vec<MediaEvent> {
    for _ in 0..1000 {
        if heard.lock().unwrap().len() >= count {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    heard.lock().unwrap().clone()
}

/// A recording through both threads, with virtual time.
fn record_through(packets: &[(Side, u16, u64)], end_ms: u64) -> (Folder, RecordingReport) {
    let folder = Folder::new();
    let mut recorder = Recorder::start("test-recorder", Sealers::start(1).unwrap()).unwrap();
    let (told, heard) = channel();
    let id = recorder.begin(
        folder.path().to_owned(),
        false,
        Arc::new(move |event| told.send(event).unwrap()),
        at(0),
    );
    let mut next = packets.iter().peekable();
    for ms in (0..end_ms).step_by(5) {
        while let Some((side, number, _)) = next.next_if(|(.., when)| *when <= ms) {
            assert!(recorder.audio((id, *side), &header(*number), Codec::Pcmu, &payload(*number), at(ms)));
        }
        recorder.tick(at(ms));
    }
    let statistics = CallStatistics {
        a: crate::LegStatistics { received: 9, ..Default::default() },
        ..Default::default()
    };
    recorder.finish(id, statistics, at(end_ms), at(end_ms));
    let MediaEvent::Recorded(report) = heard.recv_timeout(Duration::from_secs(20)).unwrap() else { panic!() };
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), MediaEvent::Closed(statistics));
    (folder, report)
}

#[test]
fn a_recording_has_both_legs_aligned_and_of_equal_length() {
    // A speaks from 0 to 1 s, B from 1 s to 2 s; frame 60 of B is lost; the call ends at 2.5 s.
    let mut packets: Vec<_> = (0..50).map(|n| (Side::A, n, u64::from(n) * 20)).collect();
    packets.extend((50..100).filter(|n| *n != 60).map(|n| (Side::B, n, u64::from(n) * 20)));
    let (folder, report) = record_through(&packets, 2500);
    let mut a = decoded(Codec::Pcmu, 0..50);
    a.resize(20_000, 0);
    let mut b = vec![0; 8000];
    b.extend(decoded(Codec::Pcmu, 50..100));
    b[9600..9760].fill(0);
    b.resize(20_000, 0);
    assert_eq!(read(&folder.path().join(A_LEG)), a);
    assert_eq!(read(&folder.path().join(B_LEG)), b);
    assert_eq!((report.samples, report.sample_rate_hz, report.complete), (20_000, 8000, true));
    assert_eq!(report.a.gaps, [(8000, 12_000)]);
    assert_eq!(report.b.gaps, [(0, 8000), (9600, 160), (16_000, 4000)]);
    assert!(report.a.sha256.len() == 64 && report.a.sha256 != report.b.sha256);
}

#[test]
fn a_folder_that_cannot_be_made_fails_the_recording_and_not_the_call() {
    let folder = Folder::new();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, b"").unwrap();
    let mut recorder = Recorder::start("test-recorder", Sealers::start(1).unwrap()).unwrap();
    let (events, heard) = sink();
    let id = recorder.begin(blocked.join("uuid"), false, events, at(0));
    recorder.finish(id, CallStatistics::default(), at(100), at(100));
    let events = wait_for(&heard, 3);
    assert_eq!(
        (&events[0], &events[2]),
        (&MediaEvent::RecordingFailed, &MediaEvent::Closed(CallStatistics::default()))
    );
    let MediaEvent::Recorded(report) = &events[1] else { panic!("{events:?}") };
    assert_eq!((report.complete, report.samples, report.a.sha256.as_str()), (false, 800, ""));
}

/// Two legs that talk, each packet at its time; what became of each.
fn talk(
    session: &mut Session,
    legs: &mut [Speaker; 2],
    said: &mut [Vec<i16>; 2],
    from_ms: u64,
    to_ms: u64,
) -> u64 {
    let mut refused = 0;
    for moment in (milliseconds(from_ms)..milliseconds(to_ms)).step_by(160) {
        for (leg, said) in legs.iter_mut().zip(said.iter_mut()) {
            let sent = leg.say(160, moment);
            refused += u64::from(!session.receive(sent.side, sent.codec, &sent.datagram, moment));
            said.extend(sent.audio);
        }
    }
    refused
}

/// Each sample of the file is what was said, or silence that is listed as lost; both lists hold whole packets.
fn compare(recorded: &crate::recorder::testing::Recorded, said: &[Vec<i16>; 2]) {
    for (side, said) in [Side::A, Side::B].into_iter().zip(said) {
        let (leg, file) = recorded.leg(side);
        let mut expected = said.clone();
        for (start, length) in &leg.lost {
            expected[*start as usize..(start + length) as usize].fill(0);
        }
        let wrong = file.iter().zip(&expected).position(|(found, said)| found != said);
        assert_eq!((wrong, file.len()), (None, expected.len()), "{side:?}: {:?}", leg.lost);
    }
}

#[test]
fn a_disk_that_stalls_for_ten_seconds_loses_nothing_while_there_is_room() {
    let disk = FaultyDisk::new();
    let mut session = Session::begin(&disk, MAX_BLOCKS, false);
    let mut legs = [Side::A, Side::B].map(Speaker::new);
    let mut said = [vec![], vec![]];
    talk(&mut session, &mut legs, &mut said, 0, 2000);
    disk.stall(true);
    // The writer hangs in the disk all the time; this thread is the relay's, and goes on.
    assert_eq!(talk(&mut session, &mut legs, &mut said, 2000, 12_000), 0);
    disk.wait_until_stalled();
    assert!(session.recorder.allocated < 300, "{} blocks for 10 s", session.recorder.allocated);
    disk.stall(false);
    talk(&mut session, &mut legs, &mut said, 12_000, 14_000);
    let recorded = session.finish(milliseconds(14_000));
    assert!(recorded.report.complete && recorded.failures == 0);
    assert_eq!((&recorded.report.a.lost, &recorded.report.b.lost), (&vec![], &vec![]));
    compare(&recorded, &said);
}

#[test]
fn a_disk_that_stalls_for_longer_than_there_is_room_costs_what_is_listed_and_nothing_else() {
    let (disk, blocks) = (FaultyDisk::new(), 20);
    let mut session = Session::begin(&disk, blocks, false);
    let mut legs = [Side::A, Side::B].map(Speaker::new);
    let mut said = [vec![], vec![]];
    for ms in (0..2000).step_by(500) {
        talk(&mut session, &mut legs, &mut said, ms, ms + 500);
        session.settle();
    }
    disk.stall(true);
    // 20 blocks are a second.
    let refused = talk(&mut session, &mut legs, &mut said, 2000, 2500);
    disk.wait_until_stalled();
    let refused = refused + talk(&mut session, &mut legs, &mut said, 2500, 12_000);
    assert_eq!((refused, session.recorder.allocated), (session.recorder.lost(), blocks));
    assert!(refused >= 2 * 440, "{refused}");
    disk.stall(false);
    session.settle();
    assert_eq!(talk(&mut session, &mut legs, &mut said, 12_000, 12_040), 0);
    session.tick_until(milliseconds(12_090));
    // A pause is one still, and no loss.
    legs.iter_mut().zip(&mut said).for_each(|(leg, said)| {
        leg.pause(60);
        said.extend([0; 480]);
    });
    for ms in [12_100, 12_400, 12_700] {
        session.settle();
        talk(&mut session, &mut legs, &mut said, ms, ms + 300);
    }
    let lost = session.recorder.lost();
    let recorded = session.finish(milliseconds(13_000));
    assert!(!recorded.report.complete && recorded.failures == 1, "told once");
    let mut packets = 0;
    for leg in [&recorded.report.a, &recorded.report.b] {
        let [(start, length), rest @ ..] = leg.lost.as_slice() else { panic!("{leg:?}") };
        assert!(rest.is_empty() && start + length == milliseconds(12_000), "to the sample: {leg:?}");
        assert_eq!((start % 160, leg.gaps.as_slice()), (0, [(milliseconds(12_040), 480)].as_slice()));
        packets += length / 160;
    }
    assert_eq!(packets, lost, "all that was counted is listed");
    compare(&recorded, &said);
}

#[test]
fn a_full_disk_costs_what_it_refused_and_the_recording_goes_on_when_there_is_room_again() {
    let disk = FaultyDisk::new();
    let mut session = Session::begin(&disk, MAX_BLOCKS, false);
    let mut legs = [Side::A, Side::B].map(Speaker::new);
    let mut said = [vec![], vec![]];
    talk(&mut session, &mut legs, &mut said, 0, 2000);
    session.settle();
    // Of an odd number of bytes half a sample is none.
    disk.room(Some(20_001));
    talk(&mut session, &mut legs, &mut said, 2000, 4000);
    session.settle();
    disk.room(None);
    talk(&mut session, &mut legs, &mut said, 4000, 6000);
    let recorded = session.finish(milliseconds(6000));
    assert!(!recorded.report.complete && recorded.failures == 1, "told once");
    let lost = [&recorded.report.a, &recorded.report.b].map(|leg| leg.lost.as_slice());
    assert!(lost.concat().iter().all(|(start, length)| start + length < milliseconds(4000)), "{lost:?}");
    assert!(lost.concat().iter().map(|(_, length)| length).sum::<u64>() > 2000, "{lost:?}");
    compare(&recorded, &said);
}

#[test]
fn files_that_could_not_be_made_are_made_when_the_disk_has_room_again() {
    let disk = FaultyDisk::new();
    disk.room(Some(0));
    let mut session = Session::begin(&disk, MAX_BLOCKS, false);
    let mut legs = [Side::A, Side::B].map(Speaker::new);
    let mut said = [vec![], vec![]];
    talk(&mut session, &mut legs, &mut said, 0, 1500);
    session.settle();
    disk.room(None);
    talk(&mut session, &mut legs, &mut said, 1500, 6000);
    let recorded = session.finish(milliseconds(6000));
    assert!(!recorded.report.complete && recorded.failures == 1);
    for leg in [&recorded.report.a, &recorded.report.b] {
        let [(0, length)] = leg.lost.as_slice() else { panic!("{leg:?}") };
        assert!(*length < milliseconds(4000), "{leg:?}");
    }
    compare(&recorded, &said);
}

#[test]
fn a_peer_that_floods_uses_up_its_own_room_and_no_one_elses() {
    let disk = FaultyDisk::new();
    let mut session = Session::begin(&disk, MAX_BLOCKS, false);
    let (told, heard) = channel();
    let events = Arc::new(move |event| told.send(event).unwrap());
    let (other, folder) = (session.recorder.slots.len(), Folder::new());
    let flooded =
        session.recorder.begin(folder.path().join("flooded"), false, events, crate::recorder::testing::at(0));
    assert_eq!(flooded.slot, other);
    disk.stall(true);
    let mut legs = [Side::A, Side::B].map(Speaker::new);
    let (mut said, mut taken) = ([vec![], vec![]], 0);
    for ms in (0..10_000).step_by(20) {
        // 50,000 packets a second.
        for n in 0..1000u16 {
            let header = header(n.wrapping_add((ms as u16).wrapping_mul(50)));
            let now = crate::recorder::testing::at(milliseconds(ms));
            let block = [0xd5; 160];
            taken += u64::from(session.recorder.audio((flooded, Side::A), &header, Codec::Pcmu, &block, now));
        }
        assert_eq!(talk(&mut session, &mut legs, &mut said, ms, ms + 20), 0, "{ms}");
    }
    // Ten seconds of real time are 500 packets; four more seconds are its savings.
    assert!(taken < 1500, "{taken}");
    assert!(session.recorder.allocated < 300, "{}", session.recorder.allocated);
    disk.stall(false);
    let (ten_seconds, statistics) = (milliseconds(10_000), CallStatistics::default());
    let end = crate::recorder::testing::at(ten_seconds);
    session.recorder.finish(flooded, statistics, end, end);
    let recorded = session.finish(ten_seconds);
    assert!(recorded.report.complete);
    compare(&recorded, &said);
    // Its own recording is no longer than the call was, however fast its clock ran.
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), MediaEvent::RecordingFailed);
    let MediaEvent::Recorded(report) = heard.recv_timeout(Duration::from_secs(20)).unwrap() else { panic!() };
    assert_eq!((report.samples, report.complete), (ten_seconds, false));
    let file = read(&folder.path().join("flooded").join(A_LEG));
    assert_eq!(file.len() as u64, ten_seconds);
}

/// A tone of `hz` as G.722, in packets of 20 ms.
fn wide_tone(hz: f64, packets: usize) -> Vec<Vec<u8>> {
    let samples: Vec<i16> = (0..packets * 320)
        .map(|n| (8000.0 * (std::f64::consts::TAU * hz * n as f64 / 16_000.0).sin()) as i16)
        .collect();
    let mut payload = vec![0; packets * 160];
    assert_eq!(g722::Encoder::wide().encode(&samples, &mut payload), payload.len());
    payload.chunks(160).map(<[u8]>::to_vec).collect()
}

/// Share of one frequency in the power of `samples`.
fn share(samples: &[i16], hz: f64, rate: f64) -> f64 {
    let (mut re, mut im, mut power) = (0.0, 0.0, 0.0);
    for (n, sample) in samples.iter().enumerate() {
        let angle = std::f64::consts::TAU * hz * n as f64 / rate;
        re += f64::from(*sample) * angle.cos();
        im += f64::from(*sample) * angle.sin();
        power += f64::from(*sample).powi(2);
    }
    2.0 * (re * re + im * im) / (samples.len() as f64 * power)
}

#[test]
fn a_wideband_recording_has_16_000_samples_per_second_of_whatever_codec_comes() {
    for wideband in [true, false] {
        let folder = Folder::new();
        let directory = folder.path().join("x");
        let (events, heard) = sink();
        let mut recording = begin(&directory, wideband, events);
        let low = wide_tone(1000.0, 100);
        let mut narrow = [0; 160];
        for number in 0..100u16 {
            let ms = u64::from(number) * 20;
            recording.take(&record(Side::A, number, Codec::G722, ms), &low[usize::from(number)]);
            // B has gone over to G.711 in mid-call.
            let samples: Vec<i16> = (0..160)
                .map(|n| f64::from(u32::from(number) * 160 + n))
                .map(|n| (8000.0 * (std::f64::consts::TAU * 700.0 * n / 8000.0).sin()) as i16)
                .collect();
            g711::encode(g711::Law::Mu, &samples, &mut narrow);
            recording.take(&record(Side::B, number, Codec::Pcmu, ms), &narrow);
            recording.flush(at(ms), true);
        }
        Sealers::start(1).unwrap().seal(recording.finish(at(2000), CallStatistics::default()));
        let events = wait_for(&heard, 2);
        let MediaEvent::Recorded(report) = &events[0] else { panic!("{events:?}") };
        let rate = if wideband { 16_000 } else { 8000 };
        assert_eq!(
            (report.sample_rate_hz, report.samples, report.complete),
            (rate, 2 * u64::from(rate), true)
        );
        for (name, hz) in [(A_LEG, 1000.0), (B_LEG, 700.0)] {
            let file = hound::WavReader::open(directory.join(name)).unwrap();
            assert_eq!(file.spec().sample_rate, rate, "{name}");
            let samples = read(&directory.join(name));
            assert_eq!(samples.len() as u64, report.samples);
            let found = share(&samples[rate as usize / 4..], hz, f64::from(rate));
            assert!(found > 0.98, "{name} at {rate}: {found}");
        }
        assert!(report.a.gaps.is_empty() && report.b.gaps.is_empty(), "{report:?}");
    }
}

#[test]
fn g711_in_a_wideband_recording_lies_where_it_was_said_around_a_gap() {
    let folder = Folder::new();
    let (events, heard) = sink();
    let mut recording = begin(&folder.path().join("x"), true, events);
    let loud = [0x90; 160];
    for number in (0..10u16).chain(20..30) {
        let ms = u64::from(number) * 20;
        recording.take(&record(Side::B, number, Codec::Pcmu, ms), &loud);
        recording.flush(at(ms), true);
    }
    Sealers::start(1).unwrap().seal(recording.finish(at(600), CallStatistics::default()));
    let MediaEvent::Recorded(report) = &wait_for(&heard, 2)[0] else { panic!() };
    assert_eq!(report.b.gaps, [(10 * 320, 10 * 320)]);
    let samples = read(&folder.path().join("x").join(B_LEG));
    let of_a_peer = i32::from(g711::decode_sample(g711::Law::Mu, 0x90));
    for (edge, inside) in [(0, 40), (3200 - 40, 40), (6400, 40), (9600 - 40, 40)] {
        let heard = &samples[edge..edge + inside];
        assert!(
            heard.iter().all(|sample| i32::from(*sample).abs() >= of_a_peer.abs() / 2),
            "{edge}: {heard:?}"
        );
    }
    assert!(samples[3200..6400].iter().all(|sample| *sample == 0));
}

#[test]
fn an_end_told_too_late_takes_nothing_back() {
    let folder = Folder::new();
    let mut recorder = Recorder::start("test-recorder", Sealers::start(1).unwrap()).unwrap();
    let (told, heard) = channel();
    let sink = Arc::new(move |event| told.send(event).unwrap());
    let id = recorder.begin(folder.path().to_owned(), false, sink, at(0));
    for ms in (0..2000).step_by(20) {
        assert!(recorder.audio((id, Side::A), &header((ms / 20) as u16), Codec::Pcmu, &payload(0), at(ms)));
        recorder.tick(at(ms));
    }
    recorder.finish(id, CallStatistics::default(), at(100), at(2000));
    let MediaEvent::Recorded(report) = heard.recv_timeout(Duration::from_secs(20)).unwrap() else { panic!() };
    let lengths =
        [A_LEG, B_LEG].map(|name| u64::from(hound::WavReader::open(folder.path().join(name)).unwrap().len()));
    assert_eq!(lengths, [report.samples; 2]);
    assert!((milliseconds(1000)..=milliseconds(1400)).contains(&report.samples), "{report:?}");
}

#[test]
fn a_bug_costs_one_recording_something_and_is_told_and_no_call_waits_for_ever() {
    let disk = FaultyDisk::new();
    let mut session = Session::begin(&disk, MAX_BLOCKS, false);
    let mut legs = [Side::A, Side::B].map(Speaker::new);
    let mut said = [vec![], vec![]];
    let begin = |recorder: &mut Recorder, folder: &Folder, name: &str, ms| {
        let (told, heard) = channel();
        let events = Arc::new(move |event| told.send(event).unwrap());
        (
            recorder.begin(
                folder.path().join(name),
                false,
                events,
                crate::recorder::testing::at(milliseconds(ms)),
            ),
            heard,
        )
    };
    let folder = Folder::new();
    assert_eq!(talk(&mut session, &mut legs, &mut said, 0, 1000), 0);
    session.settle();
    // Its files cannot be made: nothing else happens while the writer begins a recording.
    disk.break_once();
    let (first, of_first) = begin(&mut session.recorder, &folder, "first", 1000);
    assert_eq!(of_first.recv_timeout(Duration::from_secs(20)).unwrap(), MediaEvent::RecordingFailed);
    assert_eq!(talk(&mut session, &mut legs, &mut said, 1000, 2000), 0);
    let (second, of_second) = begin(&mut session.recorder, &folder, "second", 2000);
    let end = crate::recorder::testing::at(milliseconds(2000));
    session.settle();
    for (id, heard) in [(first, of_first), (second, of_second)] {
        session.recorder.finish(id, CallStatistics::default(), end, end);
        let ended = std::iter::from_fn(|| heard.recv_timeout(Duration::from_secs(20)).ok());
        assert!(ended.take_while(|event| !matches!(event, MediaEvent::Closed(_))).count() >= 1);
    }
    let recorded = session.finish(milliseconds(2000));
    assert!(recorded.report.complete, "another call's recording");
    compare(&recorded, &said);
}
