#!/usr/bin/env bash
# Makes the built-in prompts, src/prompts/*.wav, again. Needs the Debian packages espeak-ng and sox.
#
# Each is spoken at 150 words a minute, cut to the telephone band, freed of silence at both ends, brought to
# 8 kHz mono 16-bit with its peak at -6 dB, and faded over 10 ms so that it neither begins nor ends with a click.
# No prompt names a number, a person or a company.
set -euo pipefail
cd "$(dirname "$0")/../src/prompts"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

speak() { # name, text
    local raw="$work/raw.wav" trimmed="$work/trimmed.wav"
    espeak-ng -v en-us+f3 -s 150 -p 45 -w "$raw" "$2"
    sox -D "$raw" -r 8000 -c 1 -b 16 "$trimmed" \
        highpass 150 rate -v 8000 lowpass 3500 \
        silence 1 0.02 0.5% reverse silence 1 0.02 0.5% reverse \
        compand 0.01,0.15 -60,-60,-30,-22,-12,-10,0,-6 \
        norm -6
    sox -D "$trimmed" "$1.wav" fade t 0.01 -0 0.01 pad 0.05 0.1
}

speak enter_pin "Please enter your PIN, followed by the hash key."
speak wrong_pin "That PIN is not right."
speak unknown_caller "Sorry, this number cannot connect your call."
speak not_reached "The person you called cannot be reached right now."
speak goodbye "Goodbye."
