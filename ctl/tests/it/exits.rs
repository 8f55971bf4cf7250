//! How commands end, and what they say when they fail.

use std::time::Duration;

use azdr_identity::CertificateAuthority;

use crate::harness::{World, azdr_with, run};

#[tokio::test]
async fn the_exit_code_tells_failed_invalid_and_denied_apart() {
    let world = World::start();
    for (line, code, kind) in [
        ("backup config-show missing", 1, "not_found"),
        ("backup trigger later", 1, "failed_precondition"),
        ("backup configure invalid --daily-retention 365", 2, "invalid_argument"),
        ("agent revoke denied", 3, "permission_denied"),
        ("job show 999", 1, "not_found"),
        ("job watch 999", 1, "not_found"),
        ("backup trigger fails", 1, "azure_locked"),
        ("dr test does-not-pass", 1, "dr_test_failed"),
        ("dr test-all -g Flaky", 1, "children_failed"),
        ("dr failover prod-db-vm --target-region westus2", 2, "usage"),
        ("backup verify-all proofs --max-parallel 0", 2, "usage"),
        ("dr test prod-db-vm --keep 0h", 2, "usage"),
        ("dr success-rate --days 0", 2, "usage"),
        ("backup restore v --at yesterday --yes", 2, "usage"),
        ("backup verification-report --vm missing", 1, "not_found"),
        ("ssh prod-db-vm", 2, "usage"),
        ("backup list prod-db-vm --since yesterday", 2, "usage"),
        ("backup configure v --cross-region --no-cross-region", 2, "usage"),
        ("agent token v --valid-for 0h", 2, "usage"),
        ("no-such-noun", 2, "usage"),
    ] {
        let plain = world.run(line).await;
        let json = world.run(&format!("{line} --output json")).await;
        assert_eq!((plain.code, json.code), (code, code), "{line}: {}", plain.stderr);
        assert_eq!(json.error_json()["kind"], kind, "{line}");
    }
}

#[tokio::test]
async fn an_error_names_the_value_and_what_to_do_next() {
    let world = World::start();
    let plain = world.run("backup config-show missing -g Production").await;
    assert_eq!(plain.stdout, "");
    assert_eq!(
        plain.stderr,
        "Error: no VM named \"missing\" in group \"Production\"\n\
         Hint: See: azdr vm list (führt alle auf)\n"
    );
    let json = world.run("backup config-show missing -o json").await.error_json();
    assert_eq!(json["message"], "no VM named \"missing\" in group \"\"");
    assert_eq!(json["hint"], "See: azdr vm list (führt alle auf)");
}

#[tokio::test]
async fn a_failed_job_is_still_one_document_and_names_its_number_in_the_error() {
    let world = World::start();
    let ran = world.run("backup trigger fails --output json").await;
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["state"], "failed");
    let error = ran.error_json();
    assert_eq!(error["job_id"], 20);
    assert_eq!(error["hint"], "Remove the lock, then: azdr backup trigger prod-db-vm");
}

#[tokio::test]
async fn no_controller_an_untrusted_one_and_a_refused_certificate_exit_with_3() {
    let world = World::start();
    let day = Duration::from_secs(86_400);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = world.write_context("nobody.toml", &closed.to_string(), world.ca(), day);
    let foreign = CertificateAuthority::generate(world.env()).unwrap();
    let stranger = world.write_context("stranger.toml", world.address(), &foreign, day);
    let expired = world.write_context("expired.toml", world.address(), world.ca(), Duration::ZERO);
    let other = World::start();
    let elsewhere = world.write_context("elsewhere.toml", other.address(), world.ca(), day);
    for (context, kind, words) in [
        (nobody, "not_reachable", closed.to_string()),
        (stranger, "refused", "another authority".to_owned()),
        (expired, "refused", "expired".to_owned()),
        (elsewhere, "not_trusted", "not issued by our certificate authority".to_owned()),
    ] {
        let ran = run(azdr_with(&context, &["whoami", "--output", "json"])).await;
        let error = ran.error_json();
        assert_eq!(ran.code, 3, "{error}");
        assert_eq!(error["kind"], kind);
        assert!(error["message"].as_str().unwrap().contains(&words), "{error}");
        assert!(error["hint"].is_string(), "{error}");
    }
}

#[tokio::test]
async fn a_context_that_cannot_be_used_is_a_usage_error_that_names_the_file() {
    let world = World::start();
    let good = std::fs::read_to_string(world.folder().join("context.toml")).unwrap();
    let write = |name: &str, text: &str| {
        let path = world.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    for (context, words) in [
        (world.folder().join("none.toml"), "none.toml"),
        (write("empty.toml", ""), "missing field"),
        (write("more.toml", &format!("{good}more = 1\n")), "more"),
        (write("nokey.toml", &good.replace(".key", ".lost")), "context.toml.lost"),
        (write("noport.toml", &good.replace("127.0.0.1:", "no port ")), "host:port"),
    ] {
        let ran = run(azdr_with(&context, &["whoami"])).await;
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
        assert!(ran.stderr.contains("Hint: "), "{}", ran.stderr);
    }
    // The default place, under XDG_CONFIG_HOME or HOME.
    let home = world.folder().join("home");
    std::fs::create_dir_all(home.join(".config/azdr")).unwrap();
    for (variable, folder) in [("HOME", home.clone()), ("XDG_CONFIG_HOME", home.join("xdg"))] {
        let mut command = azdr_with(&home, &["whoami"]);
        command.env_remove("AZDR_CONTEXT").env(variable, &folder);
        let ran = run(command).await;
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains("azdr/context.toml"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn without_a_terminal_an_in_place_restore_needs_yes() {
    let world = World::start();
    for line in ["backup restore prod-db-vm", "backup restore prod-db-vm --interactive --yes"] {
        let ran = world.run(line).await;
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("no terminal"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[tokio::test]
async fn ssh_is_refused_with_the_line_to_run_instead() {
    let world = World::start();
    let ran = run(world.azdr(&["ssh", "prod-db-vm", "ls -la '/data'"])).await;
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains(r"Run: ssh prod-db-vm 'ls -la '\''/data'\'''"), "{}", ran.stderr);
}
