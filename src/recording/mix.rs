//! Both legs' files become the one that is delivered: mono, each sample the sum of the two.
//!
//! Mono for both formats: whoever asks for WAV instead of MP3 wants the same sound in another file, and whoever
//! wants the parties apart has the legs' own files. Reads and writes piece by piece, so that a long call needs no
//! more memory than a short one. Blocking, for the threads of [`super::pool`] only.

use super::manifest::{self, Filed, Mixed, Names, file_name};
#[cfg(feature = "mp3")]
use super::mp3::Mp3Writer;
use crate::masking::session::RecordFormat;
use hound::{SampleFormat, WavReader, WavSpec, WavWriter};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::Path;

/// Samples that are mixed at a time.
const PIECE: usize = 8000;

/// What is made of `wanted`: this build may lack the encoder.
#[must_use]
pub(super) fn deliverable(wanted: RecordFormat) -> RecordFormat {
    if cfg!(feature = "mp3") { wanted } else { RecordFormat::Wav }
}

/// What is known of the two files before they are looked at.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) names: Names,
    pub(super) samples: u64,
    pub(super) complete: bool,
}

/// Makes the file that is delivered, and puts it into the manifest. Writes the manifest first, when there was no
/// room for it before. May be repeated.
pub(super) fn make(folder: &Path, format: RecordFormat, known: &Known) -> io::Result<(Mixed, Filed)> {
    let filed = match manifest::read(folder) {
        Ok(filed) => filed,
        // Absent, or damaged: then it is made again.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            file(folder, known)?
        }
        Err(error) => return Err(error),
    };
    let format = deliverable(format);
    let (path, temporary) = (folder.join(file_name(format)), folder.join("call.part"));
    let made = mix(folder, &temporary, format).and_then(|()| {
        fs::rename(&temporary, &path)?;
        manifest::sync_folder(folder)
    });
    // Half a file takes the room that others need.
    made.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    let (bytes, sha256) = hash(&path)?;
    let mixed = Mixed { format, bytes, sha256 };
    manifest::add_mixed(folder, &mixed)?;
    Ok((mixed, filed))
}

/// The manifest of a recording that has none.
fn file(folder: &Path, known: &Known) -> io::Result<Filed> {
    let mut report = media::recorder::repair(folder)?.ok_or(io::ErrorKind::NotFound)?;
    // When nothing is shorter than it was, only the manifest had failed.
    let whole = report.a.lost.is_empty() && report.b.lost.is_empty() && report.samples == known.samples;
    report.complete = known.complete && whole;
    manifest::write(&known.names, &report).map_err(|error| {
        let source = error.source();
        source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error)
    })?;
    manifest::read(folder)
}

fn mix(folder: &Path, to: &Path, format: RecordFormat) -> io::Result<()> {
    let mut legs = Legs::open(folder)?;
    let rate = legs.spec.sample_rate;
    let file = manifest::begin(to)?;
    let mut piece = Vec::with_capacity(PIECE);
    let mut writer = Encoding::begin(&file, format, rate)?;
    while legs.next(&mut piece)? > 0 {
        writer.write(&piece)?;
    }
    writer.finish()?;
    file.sync_all()
}

type Samples = hound::WavIntoSamples<BufReader<File>, i16>;

/// Both legs' files, read together.
struct Legs {
    a: Samples,
    b: Samples,
    spec: WavSpec,
}

impl Legs {
    fn open(folder: &Path) -> io::Result<Self> {
        let open = |name: &str| WavReader::open(folder.join(name)).map_err(to_io);
        let (a, b) = (open(media::recorder::A_LEG)?, open(media::recorder::B_LEG)?);
        let spec = a.spec();
        let ours =
            spec.channels == 1 && spec.bits_per_sample == 16 && spec.sample_format == SampleFormat::Int;
        if !ours || spec != b.spec() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { a: a.into_samples(), b: b.into_samples(), spec })
    }

    /// The next samples; none at the end of the longer file.
    fn next(&mut self, piece: &mut Vec<i16>) -> io::Result<usize> {
        piece.clear();
        while piece.len() < PIECE {
            let sample = match (self.a.next().transpose(), self.b.next().transpose()) {
                (Ok(None), Ok(None)) => break,
                // Two voices at one time may be too loud for one file: that clips, as it would on the line.
                (Ok(a), Ok(b)) => a.unwrap_or(0).saturating_add(b.unwrap_or(0)),
                (Err(error), _) | (_, Err(error)) => return Err(to_io(error)),
            };
            piece.push(sample);
        }
        Ok(piece.len())
    }
}

/// The file that is being written.
enum Encoding<'f> {
    Wav(WavWriter<BufWriter<&'f File>>),
    #[cfg(feature = "mp3")]
    Mp3(Box<Mp3Writer<BufWriter<&'f File>>>),
}

impl<'f> Encoding<'f> {
    fn begin(file: &'f File, format: RecordFormat, sample_rate: u32) -> io::Result<Self> {
        let out = BufWriter::new(file);
        match format {
            #[cfg(feature = "mp3")]
            RecordFormat::Mp3 => Ok(Self::Mp3(Box::new(Mp3Writer::new(out, sample_rate)?))),
            #[cfg(not(feature = "mp3"))]
            RecordFormat::Mp3 => Err(io::ErrorKind::Unsupported.into()),
            RecordFormat::Wav => {
                let spec = WavSpec {
                    channels: 1,
                    sample_rate,
                    bits_per_sample: 16,
                    sample_format: SampleFormat::Int,
                };
                WavWriter::new(out, spec).map(Self::Wav).map_err(to_io)
            }
        }
    }

    fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        match self {
            Self::Wav(wav) => samples.iter().try_for_each(|sample| wav.write_sample(*sample)).map_err(to_io),
            #[cfg(feature = "mp3")]
            Self::Mp3(mp3) => mp3.write(samples),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Wav(wav) => wav.finalize().map_err(to_io),
            #[cfg(feature = "mp3")]
            Self::Mp3(mp3) => io::Write::flush(&mut mp3.finish()?),
        }
    }
}

fn to_io(error: hound::Error) -> io::Error {
    match error {
        hound::Error::IoError(error) => error,
        _ => io::ErrorKind::InvalidData.into(),
    }
}

/// Length and SHA-256 of a file.
fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes, mut piece) = (Sha256::new(), 0_u64, vec![0; 1 << 16]);
    loop {
        let count = file.read(&mut piece)?;
        let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
        bytes = bytes.saturating_add(count as u64);
    }
    Ok((bytes, data_encoding::HEXLOWER.encode(&hasher.finalize())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;
    use uuid::Uuid;

    /// A recording's folder with two files; removed when dropped.
    pub(in crate::recording) struct Folder(pub(in crate::recording) PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    pub(in crate::recording) fn write_wav(path: &Path, samples: &[i16]) {
        let spec =
            WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut wav = WavWriter::create(path, spec).unwrap();
        samples.iter().for_each(|sample| wav.write_sample(*sample).unwrap());
        wav.finalize().unwrap();
    }

    fn folder(a: &[i16], b: &[i16]) -> Folder {
        let path = std::env::temp_dir().join(format!("maskline-mix-{}", Uuid::new_v4()));
        fs::create_dir(&path).unwrap();
        write_wav(&path.join("a-leg.wav"), a);
        write_wav(&path.join("b-leg.wav"), b);
        Folder(path)
    }

    fn known(samples: usize) -> Known {
        Known { names: Names::default(), samples: samples as u64, complete: true }
    }

    /// A voice-like sound: a few harmonics that swell and fade.
    fn voice(pitch_hz: f32, length: usize) -> Vec<i16> {
        let tau = std::f32::consts::TAU;
        (0..length)
            .map(|n| {
                let t = n as f32 / 8000.0;
                let swell = (tau * 1.7 * t + pitch_hz).sin().max(0.0);
                let tone: f32 = (1..6).map(|k| (tau * pitch_hz * k as f32 * t).sin() / k as f32).sum();
                (tone * swell * 6000.0) as i16
            })
            .collect()
    }

    fn correlation(a: &[i16], b: &[i16]) -> f64 {
        let product = |x: &[i16], y: &[i16]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        product(a, b) / (product(a, a) * product(b, b)).sqrt()
    }

    #[test]
    fn a_wav_holds_the_sum_of_both_legs_to_the_sample() {
        let (a, b) = ([1, -5, 32_000, -32_000, 7], [2, 5, 32_000, -32_000]);
        let folder = folder(&a, &b);
        let (mixed, filed) = make(&folder.0, RecordFormat::Wav, &known(5)).unwrap();
        let mut wav = WavReader::open(folder.0.join("call.wav")).unwrap();
        let samples: Vec<i16> = wav.samples().map(Result::unwrap).collect();
        assert_eq!(samples, [3, 0, i16::MAX, i16::MIN, 7]);
        assert_eq!((wav.spec().sample_rate, wav.spec().channels, filed.samples), (8000, 1, 5));
        let bytes = fs::read(folder.0.join("call.wav")).unwrap();
        assert_eq!(mixed.bytes, bytes.len() as u64);
        assert_eq!(mixed.sha256, data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)));
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.0.join("call.json")).unwrap()).unwrap();
        assert_eq!(
            manifest["mixed"],
            serde_json::json!({
                "file": "call.wav", "channels": 1, "bytes": mixed.bytes, "sha256": mixed.sha256,
            })
        );
    }

    #[cfg(feature = "mp3")]
    #[test]
    fn an_mp3_sounds_like_the_sum_of_both_legs_and_is_as_long() {
        let length = 8000 * 7 + 123;
        let (a, b) = (voice(130.0, length), voice(210.0, length));
        let sum: Vec<i16> = a.iter().zip(&b).map(|(a, b)| a.saturating_add(*b)).collect();
        let folder = folder(&a, &b);
        let (mixed, _) = make(&folder.0, RecordFormat::Mp3, &known(length)).unwrap();
        let bytes = fs::read(folder.0.join("call.mp3")).unwrap();
        assert_eq!(mixed.format, RecordFormat::Mp3);
        // 32 kbit/s: 4000 bytes a second.
        assert!((27_000..31_000).contains(&bytes.len()), "{}", bytes.len());
        let heard = crate::prompts::decode_for_test(bytes);
        // A player that knows the Info header plays what was put in, give or take one frame of 576.
        assert!(heard.len().abs_diff(length) <= 2 * 576, "{} of {length}", heard.len());
        // It is in its place, too: nothing of the encoder's delay is left.
        let (from, to) = (16_000, 32_000);
        let alike = |leg: &[i16]| {
            (0..80)
                .map(|lag| correlation(&heard[from - 40 + lag..to - 40 + lag], &leg[from..to]))
                .fold(0.0, f64::max)
        };
        assert!(alike(&sum) > 0.98, "{}", alike(&sum));
        // Neither leg alone is what is heard.
        assert!(alike(&a) < 0.9 && alike(&b) < 0.9, "{} {}", alike(&a), alike(&b));
    }

    #[test]
    fn making_it_again_changes_nothing() {
        let folder = folder(&voice(130.0, 9000), &voice(210.0, 9000));
        let first = make(&folder.0, RecordFormat::Mp3, &known(9000)).unwrap();
        let json = fs::read(folder.0.join("call.json")).unwrap();
        assert_eq!(make(&folder.0, RecordFormat::Mp3, &known(9000)).unwrap(), first);
        assert_eq!(fs::read(folder.0.join("call.json")).unwrap(), json);
        let mut left: Vec<_> =
            fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a-leg.wav", "b-leg.wav", "call.json", file_name(first.0.format)]);
    }

    #[test]
    fn a_manifest_that_had_no_room_is_made_from_what_the_database_knows() {
        let folder = folder(&[1; 100], &[2; 100]);
        let names = Names {
            interaction: Uuid::from_u128(1),
            a: Some(Uuid::from_u128(2)),
            b: Some(Uuid::from_u128(3)),
            started_at: Some("2026-11-22T01:00:00Z".parse().unwrap()),
            ..Names::default()
        };
        for (samples, complete, expected) in [(100, true, true), (100, false, false), (99, true, false)] {
            fs::remove_file(folder.0.join("call.json")).unwrap_or_default();
            let known = Known { names: names.clone(), samples, complete };
            let (_, filed) = make(&folder.0, RecordFormat::Wav, &known).unwrap();
            assert_eq!((filed.complete, filed.samples), (expected, 100));
            assert_eq!(filed.started_at, names.started_at);
        }
        let text = fs::read_to_string(folder.0.join("call.json")).unwrap();
        assert!(names.a.into_iter().chain(names.b).all(|leg| text.contains(&leg.to_string())), "{text}");
    }

    #[test]
    fn what_is_missing_or_not_ours_is_an_error_and_leaves_nothing() {
        let folder = folder(&[1; 100], &[2; 100]);
        fs::write(folder.0.join("b-leg.wav"), "RIFFxxxxWAVEnothing of ours, but long enough to be looked at")
            .unwrap();
        assert_eq!(
            make(&folder.0, RecordFormat::Wav, &known(100)).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        for file in ["a-leg.wav", "b-leg.wav"] {
            fs::remove_file(folder.0.join(file)).unwrap();
        }
        let error = make(&folder.0, RecordFormat::Wav, &known(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }

    #[test]
    fn a_call_without_a_sound_makes_a_file_too() {
        let folder = folder(&[], &[]);
        for format in [RecordFormat::Wav, RecordFormat::Mp3] {
            assert!(make(&folder.0, format, &known(0)).unwrap().0.bytes > 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever the legs hold and however long each is, the sum is as long as the longer one.
        #[test]
        fn the_mix_is_the_clipped_sum(
            a in prop::collection::vec(any::<i16>(), 0..20_000),
            b in prop::collection::vec(any::<i16>(), 0..20_000),
        ) {
            let folder = folder(&a, &b);
            mix(&folder.0, &folder.0.join("call.wav"), RecordFormat::Wav).unwrap();
            let mut wav = WavReader::open(folder.0.join("call.wav")).unwrap();
            let samples: Vec<i16> = wav.samples().map(Result::unwrap).collect();
            let expected: Vec<i16> = (0..a.len().max(b.len()))
                .map(|n| {
                    let at = |leg: &[i16]| i32::from(leg.get(n).copied().unwrap_or(0));
                    (at(&a) + at(&b)).clamp(i16::MIN.into(), i16::MAX.into()) as i16
                })
                .collect();
            prop_assert_eq!(samples, expected);
        }
    }
}
