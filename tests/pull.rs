//! `fs pull` and `fs models`: the real binary against a real HTTP server on loopback that misbehaves.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};
use support::hub::{COMMIT, Fault, File, Hub, REPO};
use support::{World, failed, sharded_model, stderr, tiny_model};

const PULL: &[&str] = &["pull", "qwen3-0.6b"];
const WEIGHTS: &str = "model.safetensors";

fn weights(files: &[File]) -> &File {
    files.iter().find(|file| file.name == WEIGHTS).unwrap()
}

/// Bytes of `file` that the hub sent.
fn sent(hub: &Hub, file: &str) -> usize {
    hub.requests(file).iter().map(|request| request.sent).sum()
}

/// The files that a pull stores.
fn stored(files: Vec<File>) -> Vec<File> {
    files.into_iter().filter(|file| file.name != "README.md").collect()
}

// What a pull leaves, and says.

#[test]
fn a_pulled_model_is_whole_pinned_to_its_commit_and_says_how_to_run_it() {
    let world = World::new();
    let output = world.succeed(PULL);
    assert!(output.contains("fs generate --model qwen3-0.6b"), "{output}");
    assert!(output.contains("fs chat --model qwen3-0.6b"), "{output}");
    world.assert_stored(&stored(tiny_model(1)));
    assert!(!world.models("qwen3-0.6b/README.md").exists());
    let source: Value = serde_json::from_slice(&fs::read(world.models("qwen3-0.6b/source.json")).unwrap()).unwrap();
    assert_eq!((&source["repo"], &source["commit"]), (&json!(REPO), &json!(COMMIT)));
    assert_eq!(source["files"].as_array().unwrap().len(), 5);
    for request in world.hub.take_log().iter().filter(|request| request.path.contains("/resolve/")) {
        assert!(request.path.starts_with(&format!("/{REPO}/resolve/{COMMIT}/")), "{}", request.path);
    }
}

#[test]
fn a_complete_model_is_not_downloaded_again_unless_forced() {
    let world = World::new();
    world.succeed(PULL);
    world.hub.take_log();
    let output = world.succeed(PULL);
    assert!(output.contains("already complete"), "{output}");
    assert_eq!(sent(&world.hub, WEIGHTS), 0);
    world.succeed(&["pull", "qwen3-0.6b", "--force"]);
    assert_eq!(sent(&world.hub, WEIGHTS), weights(&tiny_model(1)).content.len());
    // A complete model that lost a file is not complete.
    fs::remove_file(world.models("qwen3-0.6b/tokenizer.json")).unwrap();
    world.hub.take_log();
    world.succeed(PULL);
    world.assert_stored(&stored(tiny_model(1)));
    assert_eq!(sent(&world.hub, WEIGHTS), 0);
}

#[test]
fn a_new_commit_fetches_only_what_changed_and_keeps_foreign_files() {
    let world = World::new();
    world.succeed(PULL);
    world.hub.take_log();
    let mut files = tiny_model(1);
    files.iter_mut().find(|file| file.name == "generation_config.json").unwrap().content = b"{\"top_k\": 20}".to_vec();
    world.hub.publish(&"a".repeat(40), files.clone());
    fs::write(world.models("qwen3-0.6b/notes.txt"), "mine").unwrap();
    world.succeed(PULL);
    world.assert_stored(&stored(files));
    assert_eq!(sent(&world.hub, WEIGHTS), 0);
    assert_eq!(fs::read(world.models("qwen3-0.6b/notes.txt")).unwrap(), b"mine");
    assert!(!world.models("qwen3-0.6b.old").exists());
}

#[test]
fn shards_are_pulled_by_their_index() {
    let world = World::with(sharded_model());
    world.succeed(PULL);
    world.assert_stored(&stored(sharded_model()));
}

#[test]
fn the_old_model_stays_whole_until_the_new_one_is() {
    let world = World::new();
    world.succeed(PULL);
    world.hub.publish(&"a".repeat(40), tiny_model(2));
    world.hub.fault(WEIGHTS, Fault::DropAfter(500_000), 1);
    world.fail(&["pull", "qwen3-0.6b", "--retries", "0"], &["500000 of"]);
    for file in stored(tiny_model(1)) {
        assert!(fs::read(world.models("qwen3-0.6b").join(&file.name)).unwrap() == file.content, "{}", file.name);
    }
    world.succeed(PULL);
    world.assert_stored(&stored(tiny_model(2)));
}

#[test]
fn a_pull_killed_between_the_two_renames_is_repaired() {
    let world = World::new();
    world.succeed(PULL);
    fs::rename(world.models("qwen3-0.6b"), world.models("qwen3-0.6b.old")).unwrap();
    world.hub.take_log();
    assert!(world.succeed(PULL).contains("already complete"));
    assert_eq!(sent(&world.hub, WEIGHTS), 0);
    world.assert_stored(&stored(tiny_model(1)));
}

#[test]
fn a_directory_that_pull_did_not_make_is_left_alone() {
    let world = World::new();
    fs::create_dir_all(world.models("qwen3-0.6b")).unwrap();
    fs::write(world.models("qwen3-0.6b/model.safetensors"), "precious").unwrap();
    world.fail(&["pull", "qwen3-0.6b", "--force"], &["was not made by `fs pull`"]);
    assert_eq!(fs::read(world.models("qwen3-0.6b/model.safetensors")).unwrap(), b"precious");
}

#[test]
fn a_dry_run_stores_nothing() {
    let world = World::with(sharded_model());
    let output = world.succeed(&["pull", "qwen3-0.6b", "--dry-run"]);
    assert!(output.contains("model-00002-of-00002.safetensors"), "{output}");
    let json: Value = serde_json::from_str(&world.succeed(&["pull", "qwen3-0.6b", "--dry-run", "--json"])).unwrap();
    let total: usize = stored(sharded_model()).iter().map(|file| file.content.len()).sum();
    assert_eq!((&json["status"], &json["size"]), (&json!("dry-run"), &json!(total)));
    assert!(!world.models("").exists());
}

#[test]
fn the_json_summary_counts_what_was_downloaded() {
    let world = World::new();
    let json: Value = serde_json::from_str(&world.succeed(&["pull", "qwen3-0.6b", "--json"])).unwrap();
    assert_eq!((&json["status"], &json["downloaded"]), (&json!("pulled"), &json["size"]));
    let json: Value = serde_json::from_str(&world.succeed(&["pull", "qwen3-0.6b", "--json"])).unwrap();
    assert_eq!((&json["status"], &json["downloaded"]), (&json!("up-to-date"), &json!(0)));
}

// Connections that fail.

#[test]
fn a_dropped_connection_is_continued_where_it_stopped() {
    let world = World::new();
    world.hub.fault(WEIGHTS, Fault::DropAfter(700_001), 1).fault(WEIGHTS, Fault::DropAfter(1), 1);
    world.succeed(PULL);
    let requests = world.hub.requests(WEIGHTS);
    assert_eq!(requests.iter().map(|r| r.from).collect::<Vec<_>>(), [0, 700_001, 700_002]);
    assert_eq!(sent(&world.hub, WEIGHTS), weights(&tiny_model(1)).content.len());
    world.assert_stored(&stored(tiny_model(1)));
}

#[cfg(unix)]
#[test]
fn a_pull_that_is_interrupted_or_killed_is_continued_by_the_next() {
    for (signal, code) in [("-INT", Some(130)), ("-TERM", Some(130)), ("-KILL", None)] {
        let world = World::new();
        world.hub.fault(WEIGHTS, Fault::StallAfter(900_000), 1);
        let mut child = world.command(PULL).stderr(std::process::Stdio::null()).spawn().unwrap();
        let partial = world.models("qwen3-0.6b.partial/model.safetensors.partial");
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::metadata(&partial).map_or(0, |m| m.len()) < 900_000 {
            assert!(Instant::now() < deadline, "the first part never arrived");
            std::thread::sleep(Duration::from_millis(10));
        }
        // The first one still holds the lock.
        world.fail(PULL, &["another `fs pull` of qwen3-0.6b is running"]);
        let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), code);
        let listed = world.succeed(&["models"]);
        assert!(listed.contains("partial"), "{listed}");
        world.hub.take_log();
        world.succeed(PULL);
        assert_eq!(world.hub.requests(WEIGHTS)[0].from, 900_000);
        assert_eq!(sent(&world.hub, WEIGHTS), weights(&tiny_model(1)).content.len() - 900_000);
        world.assert_stored(&stored(tiny_model(1)));
    }
}

#[test]
fn parts_of_another_commit_are_not_continued() {
    let world = World::new();
    world.hub.fault(WEIGHTS, Fault::DropAfter(900_000), 1);
    world.fail(&["pull", "qwen3-0.6b", "--retries", "0"], &["900000 of"]);
    world.hub.publish(&"b".repeat(40), tiny_model(2));
    world.hub.take_log();
    world.succeed(PULL);
    assert_eq!(world.hub.requests(WEIGHTS).iter().map(|r| r.from).collect::<Vec<_>>(), [0]);
    world.assert_stored(&stored(tiny_model(2)));
}

#[test]
fn a_server_that_ignores_ranges_or_sends_the_wrong_one_starts_that_file_again() {
    for (fault, tries) in [
        (Fault::IgnoreRange, &[0, 700_000][..]),
        (Fault::WrongRange, &[0, 700_000, 0]),
        (Fault::Etag("other"), &[0, 700_000, 0]),
        (Fault::Status(416, ""), &[0, 700_000, 0]),
    ] {
        let world = World::new();
        world.hub.fault(WEIGHTS, Fault::DropAfter(700_000), 1).fault(WEIGHTS, fault, 1);
        world.succeed(PULL);
        assert_eq!(world.hub.requests(WEIGHTS).iter().map(|r| r.from).collect::<Vec<_>>(), tries);
        world.assert_stored(&stored(tiny_model(1)));
    }
}

#[test]
fn a_server_that_always_drops_is_given_up() {
    let world = World::new();
    world.hub.fault(WEIGHTS, Fault::DropAfter(1000), usize::MAX);
    world.fail(&["pull", "qwen3-0.6b", "--retries", "1"], &["gave up after 2 tries", "2000 of", WEIGHTS]);
    assert_eq!(world.hub.requests(WEIGHTS).len(), 2);
    assert_eq!(fs::metadata(world.models("qwen3-0.6b.partial/model.safetensors.partial")).unwrap().len(), 2000);
}

#[test]
fn silence_ends_with_a_timeout() {
    let world = World::new();
    for (path, fault) in [("blobs=true", Fault::Stall), (WEIGHTS, Fault::Stall), (WEIGHTS, Fault::StallAfter(1000))] {
        world.hub.fault(path, fault, 1);
        let start = Instant::now();
        let mut command = world.command(&["pull", "qwen3-0.6b", "--retries", "0"]);
        let text = failed(command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1").output().unwrap(), &[]);
        assert!(text.to_lowercase().contains("timeout") || text.contains("no answer within 1 s"), "{text}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn nobody_listening_is_an_error_that_names_the_address() {
    let world = World::new();
    let mut command = world.command(&["pull", "qwen3-0.6b", "--retries", "0"]);
    failed(command.env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap(), &["http://127.0.0.1:1/api/models"]);
}

// Answers that lie.

#[test]
fn a_wrong_length_is_an_error_with_both_numbers() {
    let size = weights(&tiny_model(1)).content.len();
    for (fault, words) in [
        (Fault::Announce(5), [format!("announces {} bytes", size + 5), format!("{size} are expected")]),
        (Fault::Announce(-5), [format!("announces {} bytes", size - 5), format!("{size} are expected")]),
        (Fault::Append(5), ["sends more than".into(), format!("{size} bytes listed")]),
    ] {
        let world = World::new();
        world.hub.fault(WEIGHTS, fault, usize::MAX);
        world.fail(PULL, &[&words[0], &words[1]]);
        assert!(world.hub.requests(WEIGHTS).len() <= 2);
        assert!(!world.models("qwen3-0.6b").exists());
    }
}

#[test]
fn a_corrupt_file_is_fetched_once_more_and_then_refused() {
    for file in [WEIGHTS, "tokenizer.json"] {
        let world = World::new();
        world.hub.fault(file, Fault::Corrupt(7), 1);
        assert!(stderr(&world.run(PULL)).contains("wrong checksum"));
        world.assert_stored(&stored(tiny_model(1)));

        let world = World::new();
        world.hub.fault(file, Fault::Corrupt(7), usize::MAX);
        world.fail(PULL, &["checksum is", "expected", file]);
        assert_eq!(world.hub.requests(file).len(), 2);
        let dir = world.models("qwen3-0.6b.partial");
        assert!(!dir.join(file).exists() && !dir.join(format!("{file}.partial")).exists());
        assert!(!world.models("qwen3-0.6b").exists());
    }
}

#[test]
fn damage_on_disk_between_two_pulls_is_found() {
    let world = World::new();
    world.hub.fault(WEIGHTS, Fault::DropAfter(900_000), 1);
    world.fail(&["pull", "qwen3-0.6b", "--retries", "0"], &[]);
    let dir = world.models("qwen3-0.6b.partial");
    fs::write(dir.join("config.json"), vec![b' '; fs::metadata(dir.join("config.json")).unwrap().len() as usize])
        .unwrap();
    fs::write(dir.join("model.safetensors.partial"), vec![9; 900_000]).unwrap();
    world.succeed(PULL);
    world.assert_stored(&stored(tiny_model(1)));
}

#[test]
fn a_listing_that_lies_is_refused_before_anything_is_stored() {
    type Case = (&'static str, fn(&mut Value));
    let cases: [Case; 7] = [
        ("no commit", |l| l["sha"] = json!("main")),
        ("no commit", |l| l["sha"] = Value::Null),
        ("no `siblings`", |l| l["siblings"] = Value::Null),
        ("twice", |l| {
            let first = l["siblings"][0].clone();
            l["siblings"].as_array_mut().unwrap().push(first);
        }),
        ("two sizes", |l| l["siblings"][5]["size"] = json!(3)),
        ("not valid", |l| l["siblings"][5]["size"] = json!(-3)),
        ("are needed", |l| {
            l["siblings"][5]["size"] = json!(1u64 << 60);
            l["siblings"][5]["lfs"]["size"] = json!(1u64 << 60);
        }),
    ];
    for (word, edit) in cases {
        let world = World::new();
        world.hub.edit_listing(edit);
        let text = world.fail(PULL, &[word]);
        assert!(word != "are needed" || text.contains("are free"), "{text}");
        assert!(!world.models("qwen3-0.6b").exists());
        assert_eq!(sent(&world.hub, WEIGHTS), 0);
    }
}

#[test]
fn a_listing_that_is_not_json_is_refused() {
    for body in [&b"<html>Sign in to the hotel's network</html>"[..], b"{\"sha\": \"0123", b""] {
        let world = World::new();
        world.hub.fault("blobs=true", Fault::Body(body.to_vec()), 1);
        world.fail(PULL, &["the listing of files is not valid", "/api/models/"]);
    }
}

#[test]
fn sizes_and_checksums_that_are_not_listed_come_from_the_files_headers() {
    let world = World::new();
    world.hub.edit_listing(|listing| {
        for sibling in listing["siblings"].as_array_mut().unwrap() {
            *sibling = json!({ "rfilename": sibling["rfilename"] });
        }
    });
    world.succeed(PULL);
    world.assert_stored(&stored(tiny_model(1)));
    // And they count.
    world.hub.fault(WEIGHTS, Fault::Corrupt(7), usize::MAX);
    world.fail(&["pull", "qwen3-0.6b", "--force"], &["checksum is"]);
    // With neither, there is nothing to check against.
    world.hub.no_faults();
    world.hub.fault("tokenizer.json", Fault::Body(b"{}".to_vec()), usize::MAX);
    world.fail(PULL, &["gives no checksum"]);
}

#[test]
fn a_shard_can_not_be_written_outside_of_the_directory() {
    for name in
        ["../evil.safetensors", "/tmp/evil.safetensors", "a\\b.safetensors", "config.json", ".x.safetensors", ""]
    {
        let mut files = sharded_model();
        files[5] = File::new("model.safetensors.index.json", json!({ "weight_map": { "a": name } }).to_string());
        let world = World::with(files);
        world.fail(PULL, &["which is not a plain NAME.safetensors"]);
        assert!(!world.models("").exists());
    }
}

#[test]
fn what_fs_can_not_run_is_refused_before_its_weights_are_downloaded() {
    let mut files = tiny_model(1);
    files[0] = File::new("config.json", "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"]}");
    let world = World::with(files);
    world.fail(PULL, &["config.json of Qwen/Qwen3-0.6B"]);
    assert_eq!(world.hub.requests(WEIGHTS).len(), 0);

    let world = World::with(tiny_model(1).into_iter().filter(|file| file.name != WEIGHTS).collect());
    world.fail(PULL, &["neither model.safetensors nor"]);
    let world = World::with(tiny_model(1).into_iter().filter(|file| file.name != "tokenizer.json").collect());
    world.fail(PULL, &["has no tokenizer.json"]);
}

#[test]
fn weights_of_another_model_are_no_success() {
    let mut files = tiny_model(1);
    let last = files.len() - 1;
    files[last] = sharded_model().into_iter().last().unwrap();
    files[last].name = WEIGHTS.into();
    let world = World::with(files);
    world.fail(PULL, &["not a model that fs can run", "missing", "model.embed_tokens.weight"]);
    assert!(!world.models("qwen3-0.6b").exists());
}

// Answers that refuse.

#[test]
fn a_refusal_says_where_to_put_a_token() {
    for status in [401, 403] {
        let world = World::new();
        world.hub.fault("blobs=true", Fault::Status(status, "x-error-code: GatedRepo\r\n"), usize::MAX);
        world.fail(PULL, &["HF_TOKEN", "~/.cache/huggingface/token", &status.to_string()]);
        let text = failed(world.command(PULL).env("HF_TOKEN", "hf_secret").output().unwrap(), &["not accepted"]);
        assert!(!text.contains("hf_secret"), "{text}");
        assert_eq!(world.hub.requests("blobs=true").len(), 2, "a refusal is not repeated");
    }
}

#[test]
fn not_found_says_what() {
    let world = World::new();
    world.fail(&["pull", "nobody/nothing"], &["there is no repository nobody/nothing"]);
    world.fail(&["pull", "qwen3-0.6b@v9"], &["Qwen/Qwen3-0.6B has no revision \"v9\""]);
    world.succeed(&["pull", "qwen3-0.6b", "--revision", "v1"]);
    world.hub.fault(WEIGHTS, Fault::Status(404, ""), usize::MAX);
    world.fail(&["pull", "qwen3-0.6b", "--force"], &["model.safetensors: not found (404)"]);
}

#[test]
fn a_busy_server_is_asked_again_as_it_wishes_and_not_forever() {
    for status in [429, 500, 503] {
        let world = World::new();
        let busy = Fault::Status(status, "retry-after: 0\r\n");
        world.hub.fault("blobs=true", busy.clone(), 2).fault(WEIGHTS, busy.clone(), 2);
        world.succeed(PULL);
        world.assert_stored(&stored(tiny_model(1)));
        world.hub.take_log();
        world.hub.fault("blobs=true", busy, usize::MAX);
        world.fail(
            &["pull", "qwen3-0.6b", "--retries", "3"],
            &[&format!("status {status}"), "gave up after 4 tries", "still usable"],
        );
        assert_eq!(world.hub.take_log().len(), 4);
    }
}

#[test]
fn a_redirect_is_followed_and_the_token_stays_at_home() {
    let cdn = World::new();
    let world = World::new();
    let signed_out = |r: &support::hub::Request| r.authorization.is_none();
    world.hub.fault(WEIGHTS, Fault::Redirect(cdn.hub.url.clone()), usize::MAX);
    cdn.hub.fault("?signature=abc", Fault::DropAfter(800_000), 1);
    // To another path of the same host, the token goes along.
    world.hub.fault("tokenizer.json", Fault::Redirect("/moved".into()), 1);
    let output = world.command(PULL).env("HF_TOKEN", "hf_secret").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("hf_secret") && !stderr(&output).contains("signature"), "{}", stderr(&output));
    world.assert_stored(&stored(tiny_model(1)));
    let at_cdn = cdn.hub.take_log();
    assert_eq!(at_cdn.iter().map(|r| r.from).collect::<Vec<_>>(), [0, 800_000]);
    assert!(at_cdn.iter().all(signed_out), "{at_cdn:?}");
    let at_home = world.hub.take_log();
    assert!(at_home.iter().any(|r| r.path.starts_with("/moved")));
    assert!(at_home.iter().all(|r| r.authorization.as_deref() == Some("Bearer hf_secret")), "{at_home:?}");
}

#[test]
fn redirects_in_a_circle_or_to_nowhere_end() {
    let world = World::new();
    world.hub.fault(WEIGHTS, Fault::Redirect(String::new()), usize::MAX).fault(
        "?signature=abc",
        Fault::Redirect(String::new()),
        usize::MAX,
    );
    world.fail(PULL, &["redirects"]);
    assert!(world.hub.take_log().len() < 40);
    for to in ["file://", "ftp://127.0.0.1", "x"] {
        world.hub.no_faults();
        world.hub.fault(WEIGHTS, Fault::Redirect(to.into()), 1);
        world.fail(PULL, &["which is not followed"]);
    }
}

#[test]
fn a_token_is_found_in_each_of_its_places_in_order() {
    let world = World::new();
    let sent = |variables: &[(&str, &str)]| {
        world.hub.take_log();
        let output =
            world.command(&["pull", "qwen3-0.6b", "--dry-run"]).envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        world.hub.take_log()[0].authorization.clone().unwrap_or_default()
    };
    let home = world.home.path();
    assert_eq!(sent(&[]), "");
    fs::create_dir_all(home.join(".cache/huggingface")).unwrap();
    fs::write(home.join(".cache/huggingface/token"), "five\n").unwrap();
    assert_eq!(sent(&[]), "Bearer five");
    fs::create_dir(home.join("hf")).unwrap();
    fs::write(home.join("hf/token"), "four").unwrap();
    let hf_home = ("HF_HOME", home.join("hf").display().to_string());
    let hf_home = (hf_home.0, hf_home.1.as_str());
    assert_eq!(sent(&[hf_home]), "Bearer four");
    fs::write(home.join("third"), "three").unwrap();
    let path = home.join("third").display().to_string();
    assert_eq!(sent(&[hf_home, ("HF_TOKEN_PATH", &path)]), "Bearer three");
    assert_eq!(sent(&[hf_home, ("HUGGING_FACE_HUB_TOKEN", "two"), ("HF_TOKEN_PATH", &path)]), "Bearer two");
    assert_eq!(sent(&[("HF_TOKEN", "one"), ("HUGGING_FACE_HUB_TOKEN", "two")]), "Bearer one");
    let bad = world.command(PULL).env("HF_TOKEN", "se\ncret").output().unwrap();
    assert!(!failed(bad, &["HF_TOKEN: what it holds is not a token"]).contains("cret"));
}

// This machine.

#[test]
fn a_place_that_can_not_be_written_is_named() {
    let world = World::new();
    fs::write(world.home.path().join("file"), "").unwrap();
    let target = world.home.path().join("file/models");
    failed(world.command(PULL).env("FS_MODELS", &target).output().unwrap(), &["file/models"]);
}

#[cfg(unix)]
#[test]
fn a_write_that_fails_keeps_the_part_and_the_next_pull_goes_on() {
    let world = World::new();
    // The shell limits a file to 1024 blocks; the signal for it is ignored, so that writes fail as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" pull qwen3-0.6b";
    let mut limited = world.command(&[]);
    let environment: Vec<_> = limited.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
    limited = std::process::Command::new("/bin/sh");
    limited.env_clear().envs(environment).args(["-c", script, env!("CARGO_BIN_EXE_fs")]);
    failed(limited.output().unwrap(), &["model.safetensors.partial"]);
    let have = fs::metadata(world.models("qwen3-0.6b.partial/model.safetensors.partial")).unwrap().len() as usize;
    assert!(have > 0 && have <= 1 << 20, "{have}");
    world.hub.take_log();
    world.succeed(PULL);
    assert_eq!(world.hub.requests(WEIGHTS)[0].from, have);
    world.assert_stored(&stored(tiny_model(1)));
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    let world = World::new();
    world.fail(&["pull", "qwen4"], &["not a known model", "qwen3-0.6b", "qwen3-32b"]);
    world.fail(&["pull", "../../etc/passwd"], &["OWNER/NAME"]);
    assert_eq!(world.run(&["pull", "qwen3-0.6b@a", "--revision", "b"]).status.code(), Some(2));
    assert_eq!(world.run(&["pull"]).status.code(), Some(2));
    let bad = world.command(PULL).env("HF_ENDPOINT", "huggingface.co").output().unwrap();
    failed(bad, &["HF_ENDPOINT", "http"]);
    assert_eq!(world.hub.take_log().len(), 0);
}

#[test]
fn models_lists_what_is_here() {
    let world = World::new();
    assert_eq!(
        world.succeed(&["models", "--path"]).trim_end().trim_end_matches('/'),
        world.models("").display().to_string().trim_end_matches('/')
    );
    world.succeed(PULL);
    fs::create_dir_all(world.models("owner--broken")).unwrap();
    fs::write(world.models("owner--broken/config.json"), "{").unwrap();
    let json: Value = serde_json::from_str(&world.succeed(&["models", "--json"])).unwrap();
    let row = |name: &str| json["models"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap();
    let pulled = row("qwen3-0.6b");
    assert_eq!((&pulled["state"], &pulled["dtype"]), (&json!("complete"), &json!("BF16")));
    assert_eq!((&pulled["repo"], &pulled["commit"]), (&json!(REPO), &json!(COMMIT)));
    let bytes: usize = stored(tiny_model(1)).iter().map(|file| file.content.len()).sum();
    assert!(pulled["size"].as_u64().unwrap() > bytes as u64);
    assert!(pulled["parameters"].as_u64().unwrap() > 8192 * 128);
    assert_eq!(row("owner--broken")["state"], "broken");
    let text = world.succeed(&["models"]);
    assert!(
        text.contains("Qwen/Qwen3-0.6B@0123456789ab") && text.contains(&world.models("").display().to_string()),
        "{text}"
    );
}
