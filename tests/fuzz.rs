//! Fuzzing on the stable toolchain: what comes from outside, or from a disk, never panics, and what is read and written
//! again is the same (SPEC sections 1 and 7).
//!
//! Each target takes its corpus from `tests/fuzz/corpus`, mutates it for a few seconds, and keeps what was answered in a
//! new way as ground for further mutations. `FUZZ_SECONDS=600 cargo test --test fuzz` goes on for longer; `FUZZ_SEED=7`
//! takes another path (the same seed takes the same path, as far as the time lets it). An input that breaks a promise is
//! kept in the build folder and named; once understood it belongs in the corpus.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use ebbtide::config::Config;
use ebbtide::config::check::Purpose;
use ebbtide::event::{CustomPointers, Decoded, Decoder, Event, EventRules, Preset, Record, Rejection};
use ebbtide::lifecycle::Names;
use ebbtide::shard::ShardRecord;
use ebbtide::store::{StoreError, codec, key};
use ebbtide::time::{EventTime, WallTime};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How long each target runs in an ordinary test run; the targets run at the same time.
const SECONDS: u64 = 4;
/// Inputs kept as ground for further mutations.
const POOL_MAX: usize = 1_000;
/// Longest input.
const LENGTH_MAX: usize = 8 << 10;

const NOW: WallTime = WallTime::from_millis(1_709_251_200_000);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The files of a target's corpus, in order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the corpus is there").map(|file| file.expect("readable").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("readable")).collect()
}

/// Mutates and tries. `check` panics when a promise is broken; what it returns tells ways of answering apart.
fn fuzz<A: Hash>(target: &str, mut pool: Vec<Vec<u8>>, words: &[&str], check: impl Fn(&[u8]) -> A) {
    let seed = setting("FUZZ_SEED", 1);
    let length = Duration::from_secs(setting("FUZZ_SECONDS", SECONDS));
    let began = Instant::now();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut answers = BTreeSet::new();
    let mut tries = 0_u64;
    let attempt = |input: &[u8], tries: u64| {
        let Ok(answer) = catch_unwind(AssertUnwindSafe(|| check(input))) else {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{seed}-{tries}"));
            std::fs::write(&file, input).expect("the build folder can be written to");
            panic!("try {tries} of seed {seed} broke a promise of {target}: see {}", file.display());
        };
        let mut hasher = DefaultHasher::new();
        answer.hash(&mut hasher);
        hasher.finish()
    };
    assert!(!pool.is_empty(), "{target} has no corpus");
    for input in &pool {
        answers.insert(attempt(input, tries));
    }
    while began.elapsed() < length {
        tries += 1;
        let mut input = pool[random.random_range(0..pool.len())].clone();
        for _ in 0..random.random_range(1..=6) {
            mutate(&mut input, &pool, words, &mut random);
        }
        input.truncate(LENGTH_MAX);
        if answers.insert(attempt(&input, tries)) && pool.len() < POOL_MAX {
            pool.push(input);
        }
    }
    assert!(tries > 1_000, "{target}: only {tries} tries in {length:?}");
    assert!(answers.len() > 3, "{target}: all {tries} tries were answered in {} ways", answers.len());
}

fn mutate(input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&str], random: &mut ChaCha8Rng) {
    let at = random.random_range(0..=input.len());
    let to = random.random_range(at..=input.len().min(at + 32));
    match random.random_range(0..9_u32) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8_u32),
        1 if at < input.len() => input[at] = random.random(),
        2 => input.insert(at, random.random()),
        3 => drop(input.drain(at..to)),
        4 => drop(input.splice(at..at, input[at..to].to_vec())),
        5 => input.truncate(at),
        6 => {
            let other = &pool[random.random_range(0..pool.len())];
            let from = random.random_range(0..=other.len());
            let end = random.random_range(from..=other.len().min(from + 64));
            drop(input.splice(at..to, other[from..end].iter().copied()));
        }
        _ if !words.is_empty() => {
            let word = words[random.random_range(0..words.len())];
            let end = if random.random() { to } else { at };
            drop(input.splice(at..end, word.bytes()));
        }
        _ => {}
    }
}

// Events.

fn rules(preset: Preset) -> EventRules {
    EventRules {
        preset,
        track: vec!["plan".to_owned(), "seats".to_owned()],
        custom: (preset == Preset::Custom).then(|| CustomPointers {
            user_id: "/who/id".to_owned(),
            name: "/what/0".to_owned(),
            time: "/when".to_owned(),
            id: Some("/uid".to_owned()),
            properties: Some(String::new()),
        }),
        ..EventRules::default()
    }
}

/// The canonical event that says the same.
fn native(event: &Event<'_>) -> Vec<u8> {
    let text = |text: &str| serde_json::to_string(text).expect("text is JSON");
    let mut fields = vec![
        format!("\"user_id\":{}", text(&event.user_id)),
        format!("\"event\":{}", text(&event.name)),
        format!("\"time\":\"{}\"", event.time),
    ];
    fields.extend(event.id.as_ref().map(|id| format!("\"id\":{}", text(id))));
    let names = &rules(Preset::Native).track;
    let tracked: Vec<String> =
        event.tracked.iter().map(|(index, value)| format!("{}:{value}", text(&names[usize::from(*index)]))).collect();
    fields.push(format!("\"properties\":{{{}}}", tracked.join(",")));
    format!("{{{}}}", fields.join(",")).into_bytes()
}

#[test]
fn whatever_a_record_holds_is_an_event_or_a_rejection() {
    let decoders = Preset::ALL.map(|preset| Decoder::new(rules(preset)).expect("the rules are sound"));
    let canonical = Decoder::new(rules(Preset::Native)).expect("the rules are sound");
    let binary: [(&str, &[u8]); 4] = [
        ("ce_specversion", b"1.0"),
        ("ce_type", b"login"),
        ("ce_subject", b"u1"),
        ("ce_time", b"2024-03-01T00:00:00Z"),
    ];
    let words = [
        "null",
        "true",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "1e400",
        "-0",
        "99999999999",
        "100000000000",
        "1e-9",
        "\"time\":",
        "\"user_id\":",
        "\"properties\":{",
        "\"plan\":",
        "9999-12-31T23:59:59Z",
        "2024-02-30",
        "+14:00",
        "\u{feff}",
        "\u{1f980}",
        "undefined",
        "\0",
    ];
    let check = |input: &[u8]| {
        let mut answers = Vec::new();
        for decoder in &decoders {
            for headers in [&[][..], &binary[..]] {
                let record = Record { key: Some(b"k"), value: Some(input), headers, offset: 7 };
                answers.push(match decoder.decode(&record, NOW) {
                    Decoded::Event(event) => {
                        check_event(&canonical, &event);
                        (0, event.tracked.len() + 4 * usize::from(event.id.is_some()))
                    }
                    Decoded::Deletion { .. } => panic!("a record with a value is no deletion"),
                    Decoded::Rejected(Rejection { reason, message }) => {
                        assert!(message.len() <= Rejection::MAX_MESSAGE && !message.contains(char::is_control));
                        (1, reason as usize)
                    }
                });
            }
        }
        let tombstone = Record { key: Some(input), value: None, headers: &[], offset: 7 };
        assert!(!matches!(canonical.decode(&tombstone, NOW), Decoded::Event(_)));
        answers
    };
    fuzz("events", corpus("events"), &words, check);
}

fn check_event(canonical: &Decoder, event: &Event<'_>) {
    let rules = canonical.rules();
    assert!((1..=EventRules::MAX_USER_ID).contains(&event.user_id.len()), "{event:?}");
    assert!((1..=EventRules::MAX_NAME).contains(&event.name.len()), "{event:?}");
    assert!(event.time <= NOW.as_event_time() + rules.max_future, "{event:?}");
    for (index, value) in &event.tracked {
        assert!(usize::from(*index) < rules.track.len() && value.len() <= EventRules::MAX_TRACKED_VALUE, "{event:?}");
        assert!(serde_json::from_str::<serde_json::Value>(value).is_ok(), "{event:?}");
    }
    let text = native(event);
    let record = Record { key: None, value: Some(&text), headers: &[], offset: 7 };
    let Decoded::Event(again) = canonical.decode(&record, NOW) else {
        // Written out in RFC 3339, years have four digits.
        let years = EventTime::from_millis(-62_167_219_200_000)..EventTime::from_millis(253_402_300_800_000);
        assert!(!years.contains(&event.time), "{event:?} is none when written out");
        return;
    };
    assert_eq!(
        (&again.user_id, &again.name, again.time, &again.id, &again.tracked),
        (&event.user_id, &event.name, event.time, &event.id, &event.tracked)
    );
}

// What is on disk.

/// What kind of answer a decoder gave.
fn kind<T>(result: &Result<T, StoreError>) -> String {
    match result {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn whatever_bytes_are_on_disk_are_a_user_or_damaged() {
    let mut names = Names::default();
    assert!(names.list("opened") && names.list("plan"));
    fuzz("users", corpus("users"), &["\u{1}", "\0\0\0\0", "\u{7f}", "plan", "\u{1f980}"], |input| {
        let decoded = codec::decode_user(input, &names);
        if let Ok(user) = &decoded {
            assert_eq!(codec::armed(input).expect("the whole was read"), user.user.armed);
            assert_eq!(codec::check_user(input).expect("the whole was read"), user.user.armed);
            let mut bytes = Vec::new();
            codec::encode_user(user, &mut bytes);
            assert_eq!(codec::decode_user(&bytes, &names).as_ref().expect("what is written reads"), user);
        }
        let sizes = decoded.as_ref().map_or((0, 0, 0, 0), |person| {
            let user = &person.user;
            (
                user.recent_ids.len(),
                user.properties.len(),
                user.life.as_ref().map_or(0, |life| life.last_events.len() + 1),
                person.trail.entries.len() + usize::from(person.trail.comeback.is_some()),
            )
        });
        // The keys are read from the same places.
        let keys = (key::read_changelog(input).is_ok(), key::read_user(input).is_ok(), key::read_timer(input).is_ok());
        (kind(&decoded), sizes, keys)
    });
}

#[test]
fn whatever_bytes_are_on_disk_are_a_shard_record_or_damaged() {
    // What the encoder writes today, beside the files, which were written before.
    let mut pool = corpus("shard-records");
    let fresh = ShardRecord { input_partitions: 12, ..ShardRecord::default() };
    let grown = ShardRecord { position: Some(1 << 40), properties: vec!["plan".to_owned()], ..fresh.clone() };
    for record in [fresh, grown] {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        pool.push(bytes);
    }
    fuzz("shard-records", pool, &["\u{1}", "\0\0\0\0", "\u{7f}", "plan"], |input| {
        let decoded = ShardRecord::decode(input);
        if let Ok(record) = &decoded {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(&ShardRecord::decode(&bytes).expect("what is written reads"), record);
        }
        let shape = decoded.as_ref().map_or((0, false, false), |record| {
            (record.properties.len(), record.position.is_some(), record.rejudging.is_some())
        });
        (kind(&decoded), shape)
    });
}

// The configuration.

#[test]
fn whatever_a_configuration_says_is_taken_or_refused_with_reasons() {
    let mut pool = corpus("configuration");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("ebbtide.example.toml");
    pool.push(std::fs::read(example).expect("the example is there"));
    let words = [
        "\"off\"",
        "\"0s\"",
        "\"30d\"",
        "\"9999999999d\"",
        "\"-1d\"",
        "\"1MiB\"",
        "\"999999999999TiB\"",
        "nan",
        "inf",
        "-1",
        "0",
        "9223372036854775807",
        "true",
        "[]",
        "{}",
        "[policy]\n",
        "[at_risk]\n",
        "[events.custom]\n",
        "\"*\"",
        "\"\"",
        "\n",
        "= ",
        "\"/a/~2\"",
        "\"custom\"",
        "\u{1f980}",
        "1979-05-27T07:32:00Z",
    ];
    fuzz("configuration", pool, &words, |input| {
        let text = String::from_utf8_lossy(input);
        let mut answers = Vec::new();
        for purpose in [Purpose::Run, Purpose::Rules] {
            let parsed = Config::parse(&text, "fuzz", purpose, []);
            answers.push(match &parsed {
                Ok(config) => {
                    assert!(Decoder::new(config.events.clone()).is_ok(), "{config:?}");
                    assert!(config.policy.lapsed_after <= config.policy.churned_after, "{config:?}");
                    assert!(
                        config.policy.forget_after.is_none_or(|forget| forget > config.policy.churned_after),
                        "{config:?}"
                    );
                    assert!(config.workers > 0 && !config.commit_interval.is_zero(), "{config:?}");
                    let shown = format!("{config:?}");
                    assert!(!text.contains("token = \"s3cret\"") || !shown.contains("s3cret"), "{shown}");
                    String::new()
                }
                Err(error) => {
                    let paths: Vec<&str> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
                    assert!(!error.to_string().is_empty());
                    paths.join(" ")
                }
            });
            assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::parse(&text, "fuzz", purpose, [])));
        }
        answers
    });
}
