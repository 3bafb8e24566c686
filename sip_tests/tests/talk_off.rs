//! Speech that is taken for a key costs a caller one of his tries: how often does that happen? And what one packet
//! costs in which keys are looked for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

use maskline::prompts::{BuiltIn, PromptLibrary, decode_audio};
use media::inband::ToneDetector;
use sip_tests::audio::{Voice, speech, through};
use std::process::Command;

/// Keys that are heard in speech after a telephone line.
fn false_keys(samples: &[i16]) -> usize {
    let mut keys = 0;
    let mut detector = ToneDetector::default();
    through(media::Codec::Pcmu, samples).chunks(160).for_each(|frame| detector.hear(frame, |_| keys += 1));
    keys
}

#[test]
fn the_prompts_and_speech_like_sound_hold_no_key() {
    let library = PromptLibrary::default();
    for which in BuiltIn::ALL {
        assert_eq!(false_keys(library.built_in(which).samples()), 0, "{}", which.name());
    }
    for (voice, seed) in [(Voice::Low, 1), (Voice::High, 2)] {
        assert_eq!(false_keys(&speech(voice, seed, 20_000)), 0, "{voice:?}");
    }
}

/// An hour and more of synthesised speech in many voices. `cargo test --release -p sip_tests --test talk_off --
/// --ignored --nocapture`; it needs espeak-ng.
#[test]
#[ignore = "takes a minute without optimisation, and needs espeak-ng"]
fn an_hour_of_speech_in_many_voices_holds_at_most_two_keys() {
    const VOICES: [&str; 22] = [
        "en-us",
        "en-gb",
        "en-gb-scotland",
        "en-us+f1",
        "en-us+f2",
        "en-us+f3",
        "en-us+f4",
        "en-us+m1",
        "en-us+m3",
        "en-us+m5",
        "en-us+croak",
        "en-us+whisper",
        "de",
        "de+f2",
        "es",
        "fr+f4",
        "it",
        "pt-br+f1",
        "hi",
        "hi+f3",
        "ru",
        "pl+f2",
    ];
    // The project's own prose, without its markup.
    let text: String = include_str!("../../README.md")
        .chars()
        .map(|letter| if letter.is_alphanumeric() || ".,\n".contains(letter) { letter } else { ' ' })
        .collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    let folder = std::env::temp_dir().join(format!("talk-off-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("speech.wav");
    let (mut keys, mut seconds) = (0, 0);
    for (index, voice) in VOICES.into_iter().cycle().take(3 * VOICES.len()).enumerate() {
        let spoken: Vec<&str> = words.iter().copied().cycle().skip(index * 131).take(200).collect();
        let speed = (130 + index * 17 % 70).to_string();
        let mut command = Command::new("espeak-ng");
        command.args(["-v", voice, "-s", &speed, "-w"]).arg(&file).arg(spoken.join(" "));
        assert!(command.status().unwrap().success(), "{voice}");
        let samples = decode_audio(std::fs::read(&file).unwrap()).unwrap();
        let found = false_keys(&samples);
        if found > 0 {
            println!("{voice}: {found} false keys");
        }
        keys += found;
        seconds += samples.len() / 8000;
    }
    std::fs::remove_dir_all(folder).unwrap();
    println!("{keys} false keys in {} minutes of speech in {} voices", seconds / 60, VOICES.len());
    assert!(seconds > 3600, "{seconds} s are too little to tell");
    assert!(keys <= 2, "{keys} in {} minutes", seconds / 60);
}
