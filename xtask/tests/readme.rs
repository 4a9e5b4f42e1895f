//! Compares the figures of `README.md` with the tables of `docs/track-record.md`, and the sentences
//! of the track record with its own tables.
//!
//! A claim is a sentence with a gap for each figure. The test computes the figures from the tables,
//! rounds them as the sentence does, and compares them with the text in the gaps. A number in the
//! README that belongs to no claim fails the test as well.

#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]

use std::ops::Range;

const README: &str = include_str!("../../README.md");
const TRACK_RECORD: &str = include_str!("../../docs/track-record.md");
const RECOVERY: &str = include_str!("../../docs/recovery.md");

/// The place of a figure in a sentence.
const GAP: &str = "{}";

/// Phrases of the README whose numbers are not measured: they number a list, or are exit codes.
const NOT_MEASURED: [&str; 5] = [
    " 1. **All or nothing.**",
    " 2. **Durable on return.**",
    " 3. **Errors tell the truth.**",
    "Exit codes: 0 done · 1 not so (not found, exists, torn tail) · 2 usage · 3 corrupt · 4 no space · 5 I/O · 6 locked · \
     7 denied · 130 stopped by a signal;",
    "(125-127: it never ran)",
];

/// Numbers in words, which no claim compares, so that the README must use digits. `one` and `two`
/// are allowed, because many sentences use them without counting anything.
const SPELLED: [&str; 13] = [
    "but one", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "dozen",
    "hundred",
];

/// A sentence with gaps, and the figures that belong in them.
struct Claim {
    sentence: &'static str,
    figures: Vec<String>,
}

fn claim<const N: usize>(sentence: &'static str, figures: [String; N]) -> Claim {
    Claim { sentence, figures: figures.into() }
}

/// The texts in the gaps of a sentence that was found, and the bytes of the sentence.
struct Found {
    figures: Vec<String>,
    range: Range<usize>,
}

/// Returns whether `text` is a number, a range of two, or several with slashes.
fn is_figure(text: &str) -> bool {
    text.starts_with(|char: char| char.is_ascii_digit())
        && text.chars().all(|char| char.is_ascii_digit() || ",.-/ ".contains(char))
}

/// Finds `sentence` in `text`, with any figures in its gaps. It must be there exactly once.
fn find(text: &str, sentence: &str) -> Result<Found, String> {
    let mut parts = sentence.split(GAP);
    let first = parts.next().unwrap();
    let places: Vec<Found> = text
        .match_indices(first)
        .filter_map(|(begin, _)| {
            let mut end = begin + first.len();
            let mut figures = Vec::new();
            for part in parts.clone() {
                let figure = &text[end..end + text[end..].find(part)?];
                if !is_figure(figure) {
                    return None;
                }
                end += figure.len() + part.len();
                figures.push(figure.to_owned());
            }
            Some(Found { figures, range: begin..end })
        })
        .collect();
    let count = places.len();
    let [found] = <[Found; 1]>::try_from(places)
        .map_err(|_| format!("expected once, found {count} times: \"{sentence}\""))?;
    Ok(found)
}

/// Returns a line for each claim that `text` does not make, or makes with other figures.
fn differences(text: &str, claims: &[Claim]) -> Vec<String> {
    let difference = |claim: &Claim| match find(text, claim.sentence) {
        Err(why) => Some(why),
        Ok(found) if found.figures == claim.figures => None,
        Ok(found) => Some(format!(
            "\"{}\"\n    the document says {:?}\n    the tables say    {:?}",
            claim.sentence, found.figures, claim.figures
        )),
    };
    claims.iter().filter_map(difference).collect()
}

/// Returns the figures that the track record has in the gaps of `sentence`.
fn said<const N: usize>(sentence: &str) -> [String; N] {
    let found = find(&one_line(TRACK_RECORD), sentence).unwrap();
    found.figures.try_into().unwrap()
}

/// Replaces line breaks by spaces, so that a sentence may be broken anywhere.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of a table of the track record, each with its label first.
struct Table {
    rows: Vec<Vec<&'static str>>,
}

impl Table {
    /// Reads the first table that follows `lead`, a text that is in the document once.
    fn after(lead: &str) -> Self {
        let (_, rest) = TRACK_RECORD.split_once(lead).unwrap();
        assert!(!rest.contains(lead), "which table: `{lead}` is there more than once");
        let lines =
            rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
        // The first two lines are the header and the rule below it.
        Self { rows: lines.skip(2).map(cells).collect() }
    }

    /// Returns the cells of the only row with this label, without the label.
    fn row(&self, label: &str) -> &[&'static str] {
        let rows: Vec<_> = self.rows.iter().filter(|row| row[0] == label).collect();
        assert_eq!(rows.len(), 1, "rows with the label `{label}`");
        &rows[0][1..]
    }

    /// Returns the figure of each cell of a row, without the last cell, which says what was asked for.
    fn measured(&self, label: &str) -> Vec<f64> {
        let (_, cells) = self.row(label).split_last().unwrap();
        cells.iter().flat_map(|cell| figures(cell)).collect()
    }

    /// Returns the number of rows whose barrier can be removed without breaking any case.
    fn unnoticed(&self) -> usize {
        self.rows.iter().filter(|row| row[1].starts_with("0 of ")).count()
    }

    /// Returns the number of mutants found, and of those that the usual model of crash tests finds too.
    fn mutants(&self) -> (usize, usize) {
        let found = || self.rows.iter().flat_map(|row| &row[2..]).filter(|cell| **cell != "—");
        (found().count(), found().filter(|cell| !cell.contains("misses it")).count())
    }
}

/// Returns the ratio of a cell such as `62.6 ms, **9.9** [9.8..10.5]`, or both numbers of a cell such
/// as `87 / 87 ns`.
fn figures(cell: &str) -> Vec<f64> {
    let cell = cell.replace("**", "");
    let without_quartiles = cell.split('[').next().unwrap();
    let last = without_quartiles.rsplit(", ").next().unwrap();
    last.split(" / ").map(|number| number.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// Returns the least and the greatest as `0.92-0.95`, or one number if both round to the same.
fn range(values: &[f64], decimals: usize) -> String {
    let shown = |value: f64| format!("{value:.decimals$}");
    let least = shown(values.iter().copied().fold(f64::INFINITY, f64::min));
    let greatest = shown(values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    if least == greatest { least } else { format!("{least}-{greatest}") }
}

/// Returns all values as `2.5 / 2.7 / 1.4`.
fn each(values: &[f64], decimals: usize) -> String {
    values.iter().map(|value| format!("{value:.decimals$}")).collect::<Vec<_>>().join(" / ")
}

/// Returns a count with a comma between thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a count that is written with commas.
fn count(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap()
}

fn barriers_of_files() -> Table {
    Table::after("\n### Every barrier taken away\n")
}

fn barriers_of_disks() -> Table {
    Table::after("\nOn disks, the journal and the store, under `any-subset-torn`:\n")
}

/// Returns the claims of "The proof" and of "A store on a raw disk".
fn claims_of_the_proof() -> Vec<Claim> {
    let run: [String; 3] =
        said("files and disks: {} crash points, {} states, {} different images, 0 broken,");
    let (files, disks) = (barriers_of_files(), barriers_of_disks());
    let unnoticed = files.unnoticed() + disks.unnoticed();
    let findings = Table::after("\n## What was found, and by what\n");
    let by_the_simulator = findings.rows.iter().filter(|row| row[1].starts_with("the simulator")).count();
    let [cases] = said(
        ": **{} million cases, 0 silent losses, 0 wrong values called certain, 0 torn tails refused, 0 keys back, 0 panics**",
    );
    vec![
        claim(" {} crash points, {} states visited, {} distinct images: every promise was kept.", run),
        claim(
            "On files, {} places in the code ask for a barrier; for {} of them at least one case breaks when",
            [files.rows.len().to_string(), (files.rows.len() - files.unnoticed()).to_string()],
        ),
        claim(
            "On disks it is {} of {} places. The other {} have their reasons in",
            [
                (disks.rows.len() - disks.unnoticed()).to_string(),
                disks.rows.len().to_string(),
                unnoticed.to_string(),
            ],
        ),
        claim(
            "a list of {} findings, {} of them by the simulator.",
            [findings.rows.len().to_string(), by_the_simulator.to_string()],
        ),
        claim(
            "Of {} million damaged images in each test run, none lost in silence what had been acknowledged, none gave a \
             wrong value for a certain one, and no torn tail was refused.",
            [cases],
        ),
    ]
}

/// Returns the claims of "What it costs".
fn claims_of_the_cost() -> Vec<Claim> {
    let file = Table::after("\nOne quiet run (`--rounds 240`)");
    let replace =
        [file.measured("replace an existing file (2)"), file.measured("replace creates a new file (2)")];
    let store = Table::after("\nThe raw baseline is `pwrite` of 4 KiB and `fdatasync`");
    let memory = Table::after("\nIn memory (values of 100 bytes");
    let tree = Table::after("\nOne quiet run (`--rounds 16`");
    vec![
        claim(
            "one replace {} of its rate, a bulk of 1,000 files {} times as fast. A lock and unlock takes {} % of a replace.",
            [
                range(&replace.concat(), 2),
                each(&file.measured("bulk of 1,000 files (1,001)"), 0),
                range(&file.measured("lock and unlock, share of a replace (0)"), 1),
            ],
        ),
        claim(
            "one writer {} of its rate ({} through `SharedStore`), 8 writers {} times, 32 writers {} times.",
            [
                range(&store.measured("1 writer, `Store`"), 2),
                range(&store.measured("1 writer, `SharedStore`"), 2),
                range(&store.measured("8 writers"), 1),
                range(&store.measured("32 writers"), 1),
            ],
        ),
        claim(
            "With 10,000 keys a get takes {} ns and a listing of 100 keys {} µs.",
            [range(&figures(memory.row("get, hot")[0]), 0), range(&figures(memory.row("list of 100")[0]), 1)],
        ),
        claim(
            "Opening a store of 100,000 keys takes {} ms.",
            [range(&store.measured("reopen 100,000 keys, 4,691 of 5,413 blocks live, from the medium"), 0)],
        ),
        claim(
            "a put is {} times as fast with one thread ({} through `content`), and {} times with 32 threads.",
            [
                each(&tree.measured("fast put, 1 thread"), 1),
                each(&tree.measured("`content` put, 1 thread"), 1),
                each(&tree.measured("fast put, 32 threads, beside one chain after the other"), 1),
            ],
        ),
        claim(
            "Beside 32 such chains at the same time it is {} times as fast ({} through `content`)",
            [
                each(&tree.measured("the same beside 32 chains side by side"), 1),
                each(&tree.measured("`content` put, 32 threads, beside 32 chains"), 1),
            ],
        ),
        claim(
            "A transaction of 100 files is {} times as fast as 100 chains, and {} times where the files are staged",
            [
                range(&tree.measured("transaction of 100 files, payloads in the commit"), 1),
                range(&tree.measured("the same, staged and sealed"), 1),
            ],
        ),
    ]
}

/// Returns the numbers in the prose of `text` that belong to no claim.
fn unclaimed(text: &str, claims: &[Claim]) -> Vec<String> {
    let mut rest = text.to_owned();
    for sentence in claims.iter().map(|claim| claim.sentence).chain(NOT_MEASURED) {
        // If a sentence is missing, its numbers stay in `rest` and are reported.
        if let Ok(found) = find(&rest, sentence) {
            rest.replace_range(found.range, " ");
        }
    }
    // Every second part is code.
    let outside = |text: &str, mark: &str| text.split(mark).step_by(2).collect::<Vec<_>>().join(" ");
    let prose = outside(&outside(&rest, "```"), "`");
    let words: Vec<&str> = prose.split_whitespace().collect();
    // A digit within a word is part of a name: ext4, or the target of a link.
    let trimmed = words.iter().map(|word| word.trim_start_matches(|char: char| !char.is_alphanumeric()));
    let digits =
        trimmed.filter(|word| word.starts_with(|char: char| char.is_ascii_digit())).map(ToString::to_string);
    let letters =
        words.iter().map(|word| word.trim_matches(|char: char| !char.is_alphanumeric()).to_lowercase());
    let plain = format!(" {} ", letters.collect::<Vec<_>>().join(" "));
    let spelled =
        SPELLED.iter().filter(|number| plain.contains(&format!(" {number} "))).map(ToString::to_string);
    digits.chain(spelled).collect()
}

#[test]
fn every_figure_of_the_readme_is_in_the_tables_of_the_track_record() {
    let readme = one_line(README);
    let mut claims = claims_of_the_proof();
    claims.extend(claims_of_the_cost());
    let mut wrong = differences(&readme, &claims);
    let unclaimed = unclaimed(&readme, &claims);
    if !unclaimed.is_empty() {
        wrong.push(format!("numbers that no claim of this test compares with a table: {unclaimed:?}"));
    }
    assert!(wrong.is_empty(), "README.md and docs/track-record.md differ:\n{}", wrong.join("\n"));
}

#[test]
fn the_sentences_of_the_track_record_say_what_its_tables_say() {
    let places = |sentence, table: &Table| {
        let (found, by_prefix) = table.mutants();
        let counts = [table.rows.len(), table.unnoticed(), found, by_prefix];
        claim(sentence, counts.map(|count| count.to_string()))
    };
    let disks: [String; 1] =
        find(&one_line(RECOVERY), " {} disks. <!--").unwrap().figures.try_into().unwrap();
    let damage: [String; 4] = said(
        " {} bits flipped, {} blocks zeroed, filled or replaced (by an older version of themselves or another block), \
         {} pairs exchanged, {} garbled ends,",
    );
    // Hundredths of a million, rounded.
    let damage = (damage.iter().map(|text| count(text)).sum::<u64>() + 5_000) / 10_000;
    let wrong = differences(
        &one_line(TRACK_RECORD),
        &[
            places(
                " {} places ask for a barrier; {} can lose it unnoticed, each with its reason in \
                 `crates/crash-cases/tests/barriers.rs`. Of {} mutants that `posix-min` finds, `prefix` finds {}.",
                &barriers_of_files(),
            ),
            places(
                " {} places ask for a barrier; {} can lose it unnoticed, each with its reason in \
                 `crates/crash-cases/tests/barriers.rs`. Of {} mutants that `any-subset-torn` finds, `ordered-prefix` \
                 finds {}.",
                &barriers_of_disks(),
            ),
            claim("made from {} simulated disks.", disks.map(|text| grouped(count(&text)))),
            claim("**{} million cases,", [format!("{}.{:02}", damage / 100, damage % 100)]),
        ],
    );
    assert!(wrong.is_empty(), "docs/track-record.md differs from its tables:\n{}", wrong.join("\n"));
}
