//! Golden tests: `tests/golden/*.yaml` hold manifests, a line `--- # expected`, and what they are translated to.
//! `GOLDEN_REWRITE=1` writes the second part anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests may stop at the first surprise, too.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use support::{Input, render};

const EXPECTED: &str = "\n--- # expected\n";

#[test]
fn manifests_are_translated_as_expected() {
    let rewrite = std::env::var_os("GOLDEN_REWRITE").is_some();
    let cases = cases();
    assert!(!cases.is_empty(), "no golden cases");
    let mut report = String::new();
    for path in cases {
        let text = fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(EXPECTED).unwrap_or((text.trim_end(), ""));
        let found = render(&Input::parse(input).translate());
        if found == expected {
            continue;
        }
        if rewrite {
            fs::write(&path, format!("{input}{EXPECTED}{found}")).unwrap();
        } else {
            let name = path.file_name().unwrap().to_string_lossy();
            write!(report, "{name}\n{}\n", difference(expected, &found)).unwrap();
        }
    }
    assert!(report.is_empty(), "- expected, + found (`make golden` rewrites):\n{report}");
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

/// The lines that differ, with two lines around each, by the longest common subsequence.
fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    let near = |at: usize| lines[at.saturating_sub(2)..(at + 3).min(lines.len())].iter().any(|(sign, _)| *sign != ' ');
    let shown = lines.iter().enumerate().filter(|(at, _)| near(*at));
    shown.map(|(_, (sign, line))| format!("  {sign} {line}\n")).collect()
}
