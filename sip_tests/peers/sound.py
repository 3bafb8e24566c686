"""Speech-like sound and its comparison: mono, 8000 Hz, 16 bit, without any library."""

import array
import math
import operator
import random
import sys
import wave

RATE = 8000
FRAME = 80  # 10 ms
SEGMENT = 3200  # 0.4 s
ALIKE = 0.9  # of two segments; G.711 alone leaves more than 0.99
LOUD = 300  # what counts as speech, as mean amplitude


def speech(seed, seconds):
    """Syllables with pauses. Another seed is another voice, which does not correlate."""
    chance = random.Random(seed)
    pitch = chance.uniform(100, 220)
    syllables = [syllable(chance, pitch) for _ in range(24)]
    samples = array.array("h")
    while len(samples) < seconds * RATE:
        samples.extend(chance.choice(syllables))
        samples.extend([0] * int(RATE * chance.choice((0.01, 0.02, 0.03, 0.15))))
    return samples[: int(seconds * RATE)]


def syllable(chance, pitch):
    length = int(RATE * chance.uniform(0.12, 0.28))
    begin, end = pitch * chance.uniform(0.85, 1.2), pitch * chance.uniform(0.8, 1.15)
    formants = (chance.uniform(300, 800), chance.uniform(900, 2200))
    gains = []
    for number in range(1, 13):
        hertz = number * pitch
        near = sum(share / (1 + ((hertz - formant) / 120) ** 2) for formant, share in zip(formants, (1, 0.6)))
        gains.append((number, 0.03 + near))
    loudness, phase, sounds = chance.uniform(2500, 5000), 0.0, []
    for index in range(length):
        at = index / length
        phase += math.tau * (begin + (end - begin) * at) / RATE
        value = sum(gain * math.sin(number * phase) for number, gain in gains)
        sounds.append(max(-32000, min(32000, int(value * loudness * math.sin(math.pi * at)))))
    return sounds


def write(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(little(samples).tobytes())


def read(path):
    """Samples of a WAV file; a header that was not finished counts for nothing."""
    data = path.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise AssertionError(f"{path.name} is no WAV file")
    at, rate = 12, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"fmt ":
            channels = int.from_bytes(data[at + 10 : at + 12], "little")
            rate = int.from_bytes(data[at + 12 : at + 16], "little")
            bits = int.from_bytes(data[at + 22 : at + 24], "little")
            if (channels, rate, bits) != (1, RATE, 16):
                raise AssertionError(f"{path.name} has {channels} channels of {bits} bits at {rate} Hz")
        if name == b"data":
            body = data[at + 8 :] if size in (0, 0xFFFFFFFF) else data[at + 8 : at + 8 + size]
            samples = array.array("h")
            samples.frombytes(body[: len(body) // 2 * 2])
            return little(samples)
        at += 8 + size + size % 2
    return array.array("h")


def little(samples):
    if sys.byteorder == "big":
        samples = samples[:]
        samples.byteswap()
    return samples


def envelope(samples):
    return [sum(map(abs, samples[at : at + FRAME])) / FRAME for at in range(0, len(samples) - FRAME + 1, FRAME)]


def correlation(one, other):
    """Normalised: 1 for the same sound, whatever its loudness; 0 for others, and for silence."""
    power = sum(map(operator.mul, one, one)) * sum(map(operator.mul, other, other))
    return sum(map(operator.mul, one, other)) / math.sqrt(power) if power else 0.0


def coarse_offset(said, heard):
    """Where in `said` the first sample of `heard` lies, to about 10 ms, by loudness alone."""
    says, hears = envelope(said), envelope(heard)
    mean = sum(hears) / len(hears)
    hears = [value - mean for value in hears]
    best = (-2.0, 0)
    least = min(len(hears), 60)
    for shift in range(-len(hears) + least, len(says) - least):
        begin, end = max(0, -shift), min(len(hears), len(says) - shift)
        there = says[begin + shift : end + shift]
        mean = sum(there) / len(there)
        # Of two places that fit alike, the one that explains more of what is heard.
        weight = math.sqrt((end - begin) / len(hears))
        best = max(best, (weight * correlation(hears[begin:end], [value - mean for value in there]), shift))
    return best[1] * FRAME


def share_heard(said, heard, most=1000):
    """The share of what is loud in `heard` that is what was said, and how many seconds that is.

    Looks at `most` loud places.
    """
    if len(heard) < 2 * SEGMENT:
        return 0.0, 0.0
    offset = coarse_offset(said, heard)
    loud = alike = 0
    for at in range(0, len(heard) - SEGMENT, SEGMENT):
        piece = heard[at : at + SEGMENT]
        if sum(map(abs, piece)) < LOUD * SEGMENT:
            continue
        loud += 1
        if loud > most:
            loud = most
            break
        # A jitter buffer may have moved it by some frames: first where the last one was, then around.
        for near in sorted(range(-320, 321), key=abs):
            there = at + offset + near
            if there < 0 or there + SEGMENT > len(said):
                continue
            # A rough look at every eighth sample of a part decides whether to look closely.
            if correlation(piece[400:1600:3], said[there + 400 : there + 1600 : 3]) < 0.6:
                continue
            if correlation(piece, said[there : there + SEGMENT]) >= ALIKE:
                alike += 1
                offset += near
                break
    return (alike / loud if loud else 0.0), alike * SEGMENT / RATE


def complaint(what, said, heard, seconds):
    """What is wrong when `heard` should be `said`, and at least so many seconds of it."""
    share, found = share_heard(said, heard)
    if found >= seconds and share >= 0.7:
        return []
    return [f"{what}: {found:.1f} s of speech fit, {share:.0%} of what is loud; {len(heard) / RATE:.1f} s were heard"]


def foreign(what, other, heard):
    """What is wrong when `heard` holds anything of `other`."""
    _, found = share_heard(other, heard, 6)
    return [f"{what}: {found:.1f} s of it are what the other said"] if found > 0.4 else []
