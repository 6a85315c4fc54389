//! Configs broken in every way that a hand, an editor or a template breaks them: refused or loaded, never a panic.

use super::*;
use fastrand::Rng;

const ROUNDS: usize = 1_500;

fn seeds() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        files.map(|file| file.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    paths.sort();
    let mut seeds: Vec<String> = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    seeds.push(RICH.to_owned());
    seeds
}

fn mutate(text: &str, random: &mut Rng) -> Vec<u8> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = random.usize(..lines.len());
    match random.u8(..9) {
        0 => drop(lines.remove(line)),
        1 => lines.insert(line, lines[random.usize(..lines.len())].clone()),
        2 => lines[line] = format!("{}{}", " ".repeat(random.usize(1..4)), lines[line]),
        3 => lines[line] = lines[line].trim_start().to_owned(),
        4 => {
            let other = random.usize(..lines.len());
            lines.swap(line, other);
        }
        5 => swap_token(&mut lines, line, random),
        6 => {
            let depth = random.usize(1..300);
            let open = ["[", "{a: ", "{\"@type\": t/google.protobuf.Any, value: "][random.usize(..3)];
            lines[line] += &open.repeat(depth);
        }
        7 => {
            lines[line] +=
                [" &a", " *a", " *node", " |", " >", " #", ": ", "!!str x", "\t", "\u{0}"][random.usize(..10)]
        }
        _ => lines.truncate(line),
    }
    let mut bytes = lines.join("\n").into_bytes();
    for _ in 0..random.usize(..3) {
        if !bytes.is_empty() {
            let at = random.usize(..bytes.len());
            bytes[at] = if random.bool() { random.u8(b' '..b'~') } else { random.u8(..) };
        }
    }
    bytes
}

/// Puts a value from elsewhere, or an awkward one, where a value stood.
fn swap_token(lines: &mut [String], line: usize, random: &mut Rng) {
    const AWKWARD: &[&str] = &[
        "~",
        "-1",
        "1e400",
        "99999999999999999999",
        "0x",
        "''",
        "NaN",
        "1.5s",
        "-9223372036854775808s",
        "{}",
        "[]",
        "[[]]",
        "yes",
        "\"\\uD800\"",
        "{\"@type\": x}",
        "{'@type': t/google.protobuf.Struct, value: {}}",
        "{\"@type\": t/}",
    ];
    let Some((key, _)) = lines[line].split_once(": ") else { return };
    let key = key.to_owned();
    let donor = lines[random.usize(..lines.len())].split_once(": ").map(|(_, value)| value.to_owned());
    let value = match donor {
        Some(value) if random.bool() => value,
        _ => AWKWARD[random.usize(..AWKWARD.len())].to_owned(),
    };
    lines[line] = format!("{key}: {value}");
}

#[test]
fn mutated_configs_never_panic() {
    let seeds = seeds();
    let mut random = Rng::with_seed(7);
    let (mut loaded, mut refused) = (0, 0);
    let mut loader = Loader::new(UnknownFields::Reject);
    for round in 0..ROUNDS {
        let bytes = mutate(&seeds[round % seeds.len()], &mut random);
        let format = if round % 10 == 9 { Format::Text } else { Format::Yaml };
        match loader.load::<Bootstrap>(vec![Source::new("m", format, bytes)]) {
            Ok(_) => loaded += 1,
            Err(problems) => {
                assert!(!problems.is_empty());
                refused += 1;
            }
        }
    }
    // Both ways must be walked, or the mutations are too timid or too wild to find anything.
    assert!(loaded > ROUNDS / 20 && refused > ROUNDS / 2, "{loaded} loaded, {refused} refused");
}
