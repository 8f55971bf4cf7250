use super::*;

const MINIMAL: &str = r#"
data_dir = "state"

[cloud]
name = "simulated"
endpoint = "https://127.0.0.1:8443"
tenant_id = "T1"
subscriptions = ["b", "A"]

[credential]
kind = "managed_identity"

[listen]
admin = "127.0.0.1:0"
agent = "127.0.0.1:0"
enroll = "127.0.0.1:0"
"#;

struct Case {
    dir: tempfile::TempDir,
    args: ConfigArgs,
    secret: Option<&'static str>,
}

impl Case {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("azdr.toml");
        std::fs::write(&config, text).unwrap();
        let args = ConfigArgs { config, ..Default::default() };
        Self { dir, args, secret: None }
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let secret = self.secret.map(str::to_owned);
        Config::load(&self.args, move |name| {
            (name == CLIENT_SECRET_VARIABLE).then(|| secret.clone()).flatten()
        })
    }
}

fn error(text: &str) -> String {
    let case = Case::new(text);
    let message = case.load().unwrap_err().to_string();
    assert!(message.contains("azdr.toml"), "{message:?} does not name the file");
    message
}

#[test]
fn the_smallest_file_gets_the_documented_defaults() {
    let case = Case::new(MINIMAL);
    let config = case.load().unwrap();
    assert_eq!(config.data_dir, case.dir.path().join("state"));
    assert_eq!(config.cloud.subscriptions, ["a", "b"]);
    assert_eq!(config.cloud.poll_pace, PollPace::Azure);
    assert_eq!(config.cloud.authority.as_ref(), Some(&config.cloud.endpoint));
    assert_eq!(config.backup.hold_limit, Duration::from_secs(10));
    assert_eq!(config.backup.lease, Duration::from_secs(3));
    assert_eq!(config.listen.metrics, "127.0.0.1:9464".parse().unwrap());
    assert_eq!(config.drill.access, DrillAccess::None);
    assert_eq!(config.probe.ssh_port, 22);
    assert!(config.probe.login.is_none());
    assert_eq!(config.content.sampled_blocks, Sampling::Blocks(300));
    assert!(config.scheduler.enabled);
    assert_eq!(config.scheduler.inventory, Duration::from_secs(300));
    assert_eq!((config.scheduler.proofs.verifications, config.scheduler.proofs.drills), (4, 1));
    let region = Region::parse("eastus").unwrap();
    assert_eq!(config.snapshot_resource_group(&region), "azdr-eastus");
    let bound = "127.0.0.1:5000".parse().unwrap();
    assert_eq!(Advertise::address(&config.advertise.admin, bound), "127.0.0.1:5000");
}

#[test]
fn the_command_line_wins_over_the_file() {
    let mut case = Case::new(MINIMAL);
    case.args.data_dir = Some("/elsewhere".into());
    case.args.listen_admin = Some("0.0.0.0:7443".to_owned());
    assert!(case.load().unwrap_err().to_string().contains("advertise.admin"));
    case.args.advertise_admin = Some("dr.example.org:7443".to_owned());
    let config = case.load().unwrap();
    assert_eq!(config.data_dir, Path::new("/elsewhere"));
    let bound = config.listen.admin;
    assert_eq!(Advertise::address(&config.advertise.admin, bound), "dr.example.org:7443");
}

#[test]
fn a_client_secret_comes_from_a_file_or_the_environment_and_is_never_shown() {
    let kind = "kind = \"client_secret\"\nclient_id = \"app\"";
    let text = MINIMAL.replace("kind = \"managed_identity\"", kind);
    let mut case = Case::new(&text);
    assert!(case.load().unwrap_err().to_string().contains(CLIENT_SECRET_VARIABLE));
    case.secret = Some("hunter2");
    let config = case.load().unwrap();
    let Credential::ClientSecret { secret, .. } = &config.credential else { panic!() };
    assert_eq!(secret.expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));

    let text = text.replace(kind, &format!("{kind}\nclient_secret_file = \"secret\""));
    let mut case = Case::new(&text);
    assert!(case.load().unwrap_err().to_string().contains("client_secret_file"));
    std::fs::write(case.dir.path().join("secret"), "hunter3\n").unwrap();
    let config = case.load().unwrap();
    let Credential::ClientSecret { secret, .. } = &config.credential else { panic!() };
    assert_eq!(secret.expose(), "hunter3");
    case.secret = Some("hunter2");
    assert!(case.load().unwrap_err().to_string().contains("only one"));
}

#[test]
fn a_simulated_cloud_is_never_azure_and_azure_is_nothing_else() {
    let text = MINIMAL.replace("https://127.0.0.1:8443", "https://MANAGEMENT.azure.com.");
    assert!(error(&text).contains("cannot be Azure itself"));
    let authority = "tenant_id = \"T1\"\nauthority = \"https://login.microsoftonline.com\"";
    let text = MINIMAL.replace("tenant_id = \"T1\"", authority);
    assert!(error(&text).contains("cloud.authority"));
    let text = MINIMAL.replace("\"simulated\"", "\"AzureCloud\"");
    assert!(error(&text).contains("https://management.azure.com"));
    let text = text.replace("endpoint = \"https://127.0.0.1:8443\"\n", "");
    let cloud = Case::new(&text).load().unwrap().cloud;
    assert_eq!(cloud.endpoint.as_str(), "https://management.azure.com/");
    assert_eq!(cloud.authority, None);
    let text = text.replace("tenant_id", "poll_pace = \"quick\"\ntenant_id");
    assert!(error(&text).contains("cloud.poll_pace"));
}

#[test]
fn what_is_unknown_or_missing_is_named_with_its_line() {
    let message = error(&format!("{MINIMAL}\n[sheduler]\nenabled = true\n"));
    assert!(message.contains("sheduler") && message.contains("scheduler"), "{message}");
    let message = error(&MINIMAL.replace("tenant_id = \"T1\"", ""));
    assert!(message.contains("tenant_id") && message.contains("line"), "{message}");
    let missing = ConfigArgs { config: "/nowhere/azdr.toml".into(), ..Default::default() };
    let message = Config::load(&missing, |_| None).unwrap_err().to_string();
    assert!(message.contains("/nowhere/azdr.toml"));
}

#[test]
fn every_value_outside_its_limits_is_named_with_what_is_allowed() {
    let subnet = "/subscriptions/x/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/n";
    let other = format!("[drill]\naccess = \"subnet\"\nsubnets.eastus = \"{subnet}/subnets/s\"");
    let network = format!("[drill]\naccess = \"subnet\"\nsubnets.eastus = \"{subnet}\"");
    let cases: [(&str, [&str; 3]); 30] = [
        ("[content]\nsampled_blocks = 10001", ["content.sampled_blocks", "10001", "0 to 10000"]),
        ("[content]\nsampled_blocks = -1", ["content.sampled_blocks", "-1", "0 to 10000"]),
        ("[content]\nsampled_blocks = \"most\"", ["content.sampled_blocks", "most", "or \"all\""]),
        ("[content]\nsampled_blocks = 1.5", ["content.sampled_blocks", "1.5", "0 to 10000"]),
        ("[content]\nsampled_blocks = true", ["content.sampled_blocks", "true", "0 to 10000"]),
        ("[backup]\nhold_limit_ms = 25001", ["backup.hold_limit_ms", "25001", "1000 to 25000"]),
        ("[backup]\nlease_ms = 1000", ["backup.lease_ms", "1000", "2000 to 10000"]),
        ("[backup]\nmax_concurrent_holds = 0", ["backup.max_concurrent_holds", "0", "1 to 256"]),
        (
            "[backup]\nsnapshot_resource_group_prefix = \"a/b\"",
            ["backup.snapshot_resource_group_prefix", "a/b", "letters"],
        ),
        ("[probe]\nssh_port = 0", ["probe.ssh_port", "0", "1 to 65535"]),
        ("[probe]\nssh_port = 65558", ["probe.ssh_port", "65558", "1 to 65535"]),
        ("[probe]\nconnect_timeout_secs = 61", ["probe.connect_timeout_secs", "61", "1 to 60"]),
        ("[probe]\nlogin_timeout_secs = 0", ["probe.login_timeout_secs", "0", "1 to 300"]),
        ("[probe]\nuser = \"probe\"", ["probe.key_file", "", "probe.user is set"]),
        ("[probe]\nkey_file = \"key\"", ["probe.user", "", "probe.key_file is set"]),
        ("[probe]\nuser = \"a b\"\nkey_file = \"key\"", ["probe.user", "a b", "without spaces"]),
        ("[scheduler]\ntick_secs = 0", ["scheduler.tick_secs", "0", "1 to 3600"]),
        ("[scheduler]\ninventory_secs = 0", ["scheduler.inventory_secs", "0", "1 to 86400"]),
        (
            "[scheduler]\nmax_verifications = 101",
            ["scheduler.max_verifications", "101", "0 to 100"],
        ),
        ("[scheduler]\nmax_drills = 200", ["scheduler.max_drills", "200", "0 to 100"]),
        ("[drill]\naccess = \"vpn\"", ["drill.access", "vpn", "public-ip, subnet or none"]),
        ("[drill]\naccess = \"public-ip\"", ["drill.allowed_source", "", "public-ip needs"]),
        ("[drill]\nallowed_source = \"0.0.0.0/0\"", ["drill.allowed_source", "0.0.0.0/0", "/24"]),
        ("[drill]\nallowed_source = \"10.0.0.0/8\"", ["drill.allowed_source", "10.0.0.0/8", "/24"]),
        ("[drill]\naccess = \"subnet\"", ["drill.subnets", "", "at least one"]),
        (&other, ["drill.subnets.eastus", "subnets/s", "cloud.subscriptions"]),
        (&network, ["drill.subnets.eastus", "virtualNetworks/n", "subnet"]),
        ("[advertise]\nadmin = \"host\"", ["advertise.admin", "host", "host:port"]),
        ("[advertise]\nagent = \"0.0.0.0:1\"", ["advertise.agent", "0.0.0.0:1", "host:port"]),
        ("[advertise]\nenroll = \"a b:1\"", ["advertise.enroll", "a b:1", "host:port"]),
    ];
    for (addition, words) in cases {
        let message = error(&format!("{MINIMAL}\n{addition}\n"));
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }
    for (from, to, words) in [
        ("\"simulated\"", "\"Mars\"", ["cloud.name", "Mars", "AzureCloud or simulated"]),
        ("https://127", "http://127", ["cloud.endpoint", "http://127", "https"]),
        ("8443\"", "8443/x\"", ["cloud.endpoint", "8443/x", "without a path"]),
        ("[\"b\", \"A\"]", "[]", ["cloud.subscriptions", "[]", "at least one"]),
        ("[\"b\", \"A\"]", "[\"a\", \"A\"]", ["cloud.subscriptions", "A", "once"]),
        ("[\"b\", \"A\"]", "[\"a/b\"]", ["cloud.subscriptions", "a/b", "letters"]),
        ("managed_identity", "password", ["credential.kind", "password", "azure_cli"]),
        ("agent = \"127.0.0.1:0\"", "agent = \"x\"", ["listen.agent", "x", "IP address"]),
        (
            "agent = \"127.0.0.1:0\"",
            "agent = \"127.0.0.1:9464\"",
            ["listen.metrics", "127.0.0.1:9464", "another listener"],
        ),
    ] {
        let message = error(&MINIMAL.replace(from, to));
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }
}

#[test]
fn drill_access_takes_what_it_needs() {
    let text =
        format!("{MINIMAL}\n[drill]\naccess = \"public-ip\"\nallowed_source = \"203.0.113.9\"");
    let DrillAccess::PublicIp { allowed_source } = Case::new(&text).load().unwrap().drill.access
    else {
        panic!()
    };
    assert_eq!(allowed_source.to_string(), "203.0.113.9");
    let subnet = "/subscriptions/A/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/n\
                  /subnets/s";
    let text = format!("{MINIMAL}\n[drill]\naccess = \"subnet\"\nsubnets.eastus = \"{subnet}\"");
    let DrillAccess::Subnet { subnets } = Case::new(&text).load().unwrap().drill.access else {
        panic!()
    };
    assert_eq!(subnets[&Region::parse("East US").unwrap()].name(), "s");
}

#[test]
fn a_probe_key_is_read_at_the_start_and_nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt;

    let text = format!("{MINIMAL}\n[probe]\nuser = \"azdr-probe\"\nkey_file = \"probe-key\"");
    let case = Case::new(&text);
    let path = case.dir.path().join("probe-key");
    let refused = |words: &str| {
        let message = case.load().unwrap_err().to_string();
        for word in ["probe.key_file", path.to_str().unwrap(), words] {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    };
    refused("cannot read");
    let set = |content: &str, mode: u32| {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = crate::ssh_probe::new_key();
    for mode in [0o644, 0o640, 0o604, 0o660] {
        set(&key, mode);
        refused(&format!("mode 0600 or 0400), and has mode {mode:04o}"));
    }
    for content in ["", "-----BEGIN CERTIFICATE-----", &key[..key.len() / 2]] {
        set(content, 0o600);
        refused("OpenSSH private key, Ed25519 or ECDSA, without a passphrase");
    }
    set(&key, 0o600);
    let login = case.load().unwrap().probe.login.unwrap();
    assert_eq!(login.user, "azdr-probe");
    assert_eq!((login.connect_limit.as_secs(), login.login_limit.as_secs()), (5, 30));
    assert!(!format!("{login:?}").contains(&key[60..80]));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    refused("OpenSSH private key");
}
