//! WAV files: 16-bit mono PCM in and out.

use std::path::Path;

/// Writes mono 16-bit PCM.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, rate_hz: u32, samples: &[i16]) -> Result<(), hound::Error> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate_hz,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = hound::WavWriter::create(path, spec)?;
    for sample in samples {
        file.write_sample(*sample)?;
    }
    file.finalize()
}

/// Sample rate and samples of a mono 16-bit file.
///
/// # Errors
/// When the file cannot be read or is of another kind.
pub fn read(path: &Path) -> Result<(u32, Vec<i16>), hound::Error> {
    let file = hound::WavReader::open(path)?;
    let spec = file.spec();
    if spec.channels != 1 || spec.bits_per_sample != 16 || spec.sample_format != hound::SampleFormat::Int {
        return Err(hound::Error::FormatError("not mono 16-bit PCM"));
    }
    Ok((spec.sample_rate, file.into_samples().collect::<Result<_, _>>()?))
}
