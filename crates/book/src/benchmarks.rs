//! `{{benchmarks DIRECTORY}}`: what `tools/bench-peers` measured, one section for each of its JSON files.
//!
//! Nothing of these tables is written by hand: medians, ratios and shares are computed from the files while the site is built.

use failed_star::session::bench::Spread;
use serde_json::Value;
use std::path::Path;

/// Peers in the order of columns: name in the file, name on the page.
const PEERS: [(&str, &str); 6] = [
    ("fs", "fs"),
    ("fs-avx2", "fs, AVX2 forced"),
    ("llama", "llama.cpp"),
    ("llama-fa", "llama.cpp, flash attention"),
    ("candle", "candle"),
    ("transformers", "transformers"),
];

/// The page's sections: a machine each, within it the newest run first, and the machine of the newest run before the others.
/// `link` makes the address of a file of the repository. Files that are not from `tools/bench-peers` (they have no `peers`) are
/// left out.
pub fn sections(root: &Path, directory: &str, link: impl Fn(&str) -> String) -> Result<String, String> {
    let read = |path: &Path| -> Result<Value, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let entries = std::fs::read_dir(root.join(directory)).map_err(|error| format!("{directory}: {error}"))?;
    let mut runs = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{directory}: {error}"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            let run = read(&path)?;
            if run.get("peers").is_some() {
                let named = |error| format!("{name}: {error}");
                let text = section(&run, &link(&format!("{directory}/{name}"))).map_err(named)?;
                let machine = machine(self::text(&run, "machine").map_err(named)?).map_err(named)?;
                runs.push((run["started"].to_string(), machine, text));
            }
        }
    }
    if runs.is_empty() {
        return Err(format!("{directory} has no run of tools/bench-peers"));
    }
    runs.sort_by(|a, b| b.cmp(a));
    let mut machines: Vec<&(String, String)> = Vec::new();
    for (_, machine, _) in &runs {
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    let mut out = String::new();
    for machine in machines {
        let (name, features) = machine;
        out += &format!("\n## {name}\n\nIts vector instructions: {features}.\n");
        out.extend(runs.iter().filter(|(_, of, _)| of == machine).map(|(_, _, text)| text.as_str()));
    }
    Ok(out)
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key].as_str().ok_or_else(|| format!("there is no `{key}`"))
}

/// One run: what, where, how, and a table for each test.
fn section(run: &Value, link: &str) -> Result<String, String> {
    let results = run["results"].as_object().ok_or("there is no `results`")?;
    let types: Vec<&str> = results.keys().map(String::as_str).collect();
    let started = text(run, "started")?.get(..16).ok_or("`started` is no time")?.replace('T', ", ");
    let words = command(run["command"].as_array().into_iter().flatten().filter_map(Value::as_str));
    let commit = text(run, "git")?.get(..9).ok_or("`git` is no commit")?;
    let changed = if run["git_changes"] == Value::Bool(true) { ", with changes" } else { "" };
    let heading = types.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>().join(", ");
    let mut out = format!("\n### {started}: {heading}\n\n");
    out += &format!(
        "{} threads, {} rounds by turns; commit `{commit}`{changed}; [all samples]({link}).\n\n```sh\n{}\n```\n",
        run["threads"],
        run["rounds"],
        words.join(" ")
    );
    out += &format!("\n{}\n", versions(run)?);
    let spread = spread(results);
    if spread >= UNSTEADY {
        out += &format!(
            "\n**An unsteady hour**: the fastest round of some program was {spread:.1} times its slowest. Ratios of this run say little.\n"
        );
    }
    for test in ["decode", "deep", "prefill"] {
        if results.values().any(|peers| peers.as_object().is_some_and(|all| all.values().any(|p| !p[test].is_null()))) {
            out += &format!("\n#### {}\n\n{}", title(test, &run["tests"][test]), table(&run["results"], &types, test)?);
        }
    }
    Ok(out)
}

/// A run in which a program's rounds are further apart than this says so above its tables.
const UNSTEADY: f64 = 2.0;

/// The fastest round of a program by its slowest, the largest of all programs and tests.
fn spread(results: &serde_json::Map<String, Value>) -> f64 {
    let tests = results.values().flat_map(|peers| peers.as_object().into_iter().flatten());
    let tests = tests.flat_map(|(_, tests)| tests.as_object().into_iter().flatten());
    tests.filter_map(|(_, test)| Some(test["max"].as_f64()? / test["min"].as_f64()?)).fold(1.0, f64::max)
}

/// The words of a command but for those that name places of the machine it ran on: where a result went, which build of `fs` it was.
fn command<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut kept = Vec::new();
    let mut skip = false;
    for word in words {
        if !std::mem::take(&mut skip) {
            skip = ["--out", "--fs"].contains(&word);
            kept.extend((!skip).then_some(word));
        }
    }
    kept
}

fn title(test: &str, of: &Value) -> String {
    match test {
        "decode" => format!("Decode: {of} tokens from an empty cache"),
        "deep" => format!("Decode: {} tokens behind {}", of[1], of[0]),
        _ => format!("Prefill: {of} tokens"),
    }
}

/// The processor out of what `lscpu` printed, and which vector instructions it has.
fn machine(lscpu: &str) -> Result<(String, String), String> {
    let field = |name: &str| {
        let line = lscpu.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or_else(|| format!("`machine` has no `{name}`"))
    };
    let flags: Vec<&str> = field("Flags").or_else(|_| field("Features")).unwrap_or_default().split(' ').collect();
    let known = ["avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "asimddp", "i8mm"];
    let known: Vec<&str> = known.into_iter().filter(|name| flags.contains(name)).collect();
    Ok((format!("{}, {} cores", field("Model name")?, field("CPU(s)")?), known.join(", ")))
}

/// What each peer was.
fn versions(run: &Value) -> Result<String, String> {
    let mut found: Vec<String> = Vec::new();
    for (peer, title) in PEERS {
        let first = run["peers"].as_object().into_iter().flatten().find_map(|(_, peers)| peers.get(peer));
        let Some(about) = first else { continue };
        let device = about["device"].as_str().map(|device| format!(", {device}")).unwrap_or_default();
        found.push(format!("{title}: `{}`{device}", text(about, "version")?));
    }
    Ok(found.join("; ") + ".")
}

/// Rows are formats, columns peers: the median and, below it, least and most; then the ratio, the share of the machine, and the
/// ratio that a program at the machine's limit would have.
fn table(results: &Value, types: &[&str], test: &str) -> Result<String, String> {
    let peers: Vec<_> =
        PEERS.into_iter().filter(|(peer, _)| types.iter().any(|t| !results[*t][*peer][test].is_null())).collect();
    let (share, of) = match test {
        "prefill" => ("share_of_peak", "share of the arithmetic peak"),
        _ => ("share_of_read_bandwidth", "share of read bandwidth"),
    };
    let titles: Vec<&str> = peers.iter().map(|(_, title)| *title).collect();
    let mut out = format!(
        "| tokens/s | {} | fs to llama.cpp's better one | {of} | the machine's limit to llama.cpp's |\n",
        titles.join(" | ")
    );
    out += &format!("| --- |{}\n", " ---: |".repeat(peers.len() + 3));
    for name in types {
        let number = |peer: &str, key: &str| results[*name][peer][test][key].as_f64();
        let mut row = format!("| {} |", name.to_uppercase());
        for (peer, _) in &peers {
            row += &match (number(peer, "median"), number(peer, "min"), number(peer, "max")) {
                (Some(median), Some(min), Some(max)) => {
                    format!(" **{median:.1}** <span class='range'>({min:.1} to {max:.1})</span> |")
                }
                _ => " |".into(),
            };
        }
        let theirs = ["llama", "llama-fa"].iter().filter_map(|peer| number(peer, "median")).fold(0.0, f64::max);
        row += &match number("fs", "median") {
            Some(ours) if theirs > 0.0 => format!(" **{:.2}** |", ours / theirs),
            _ => " |".into(),
        };
        let samples = results[*name]["fs"][test]["samples"].as_array();
        let shares = |of: fn(f64, f64) -> f64| {
            let of = |sample: &Value| Some(of(sample[share].as_f64()?, sample["tokens_per_second"].as_f64()?));
            median(samples.into_iter().flatten().filter_map(of).collect())
        };
        row += &shares(|share, _| share).map_or(" |".into(), |share| format!(" {:.0}\u{a0}% |", 100.0 * share));
        row += &match shares(|share, rate| rate / share) {
            Some(limit) if theirs > 0.0 => format!(" {:.2} |", limit / theirs),
            _ => " |".into(),
        };
        out += &(row + "\n");
    }
    Ok(out)
}

/// `fs bench`'s median, of any number of values.
pub fn median(values: Vec<f64>) -> Option<f64> {
    (!values.is_empty()).then(|| Spread::new(values).median)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{
        "started": "2026-01-02T03:04:05+00:00", "command": ["tools/bench-peers", "--out", "/a/place", "--rounds", "2"], "git": "0123456789abcdef",
        "git_changes": false, "machine": "CPU(s):  2\nModel name:  A Processor\nFlags: sse avx2", "threads": 2, "rounds": 2,
        "tests": {"decode": 64, "deep": [4096, 16], "prefill": 512},
        "peers": {"q8_0": {"fs": {"version": "fs 0", "device": "avx2"}, "llama": {"version": "llama 1"}, "llama-fa": {"version": "llama 1"}}},
        "results": {"q8_0": {
            "fs": {"decode": {"median": 30.0, "min": 20.0, "max": 31.0, "samples": [{"tokens_per_second": 28, "share_of_read_bandwidth": 0.7}, {"tokens_per_second": 30, "share_of_read_bandwidth": 0.8}]}},
            "llama": {"decode": {"median": 15.0, "min": 14.0, "max": 16.0, "samples": []}},
            "llama-fa": {"decode": {"median": 12.0, "min": 11.0, "max": 13.0, "samples": []}}}}}"#;

    fn page(files: &[(&str, &str)]) -> Result<String, String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("r")).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(root.path().join("r").join(name), text).unwrap());
        sections(root.path(), "r", |path| format!("https://x/{path}"))
    }

    #[test]
    fn ratios_are_to_the_better_peer_and_shares_are_medians() {
        let page = page(&[("a.json", RUN), ("b.json", "{}"), ("c.txt", "no JSON")]).unwrap();
        assert!(
            page.contains("\n### 2026-01-02, 03:04: Q8_0") && page.contains("\n## A Processor, 2 cores\n"),
            "{page}"
        );
        assert!(page.contains("instructions: avx2.") && !page.contains("unsteady"), "{page}");
        assert!(page.contains("[all samples](https://x/r/a.json)"), "{page}");
        let range = |from, to| format!("<span class='range'>({from} to {to})</span>");
        let [fs, llama, flash] = [range("20.0", "31.0"), range("14.0", "16.0"), range("11.0", "13.0")];
        let row =
            format!("| Q8_0 | **30.0** {fs} | **15.0** {llama} | **12.0** {flash} | **2.00** | 75\u{a0}% | 2.58 |");
        assert!(page.contains(&row), "{page}");
        assert!(page.contains("tools/bench-peers --rounds 2") && !page.contains("Prefill"), "{page}");
    }

    #[test]
    fn newer_runs_come_first_and_a_machine_has_one_section() {
        let newer = RUN.replace("2026-01-02", "2026-02-03");
        let other = RUN.replace("2026-01-02", "2026-01-15").replace("A Processor", "Another");
        let page = page(&[("a.json", RUN), ("b.json", &newer), ("c.json", &other)]).unwrap();
        let places: Vec<_> = ["## A Processor", "2026-02-03", "2026-01-02", "## Another", "2026-01-15"]
            .map(|part| page.find(part).unwrap())
            .to_vec();
        assert!(places.is_sorted() && page.matches("\n## ").count() == 2, "{page}");
    }

    #[test]
    fn a_run_of_an_unsteady_hour_says_so() {
        let page = page(&[("a.json", &RUN.replace("\"min\": 11.0", "\"min\": 5.2"))]).unwrap();
        assert!(page.contains("fastest round of some program was 2.5 times"), "{page}");
    }

    #[test]
    fn a_file_that_lacks_something_is_an_error_with_its_name() {
        assert!(page(&[]).is_err());
        assert!(page(&[("a.json", "{")]).unwrap_err().contains("a.json"));
        for key in ["started", "machine", "git", "results", "version"] {
            let error = page(&[("a.json", &RUN.replace(&format!("\"{key}\""), "\"other\""))]).unwrap_err();
            assert!(error.contains("a.json"), "{key}: {error}");
        }
    }
}
