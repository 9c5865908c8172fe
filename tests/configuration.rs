//! What the configuration promises: every default visible, every problem at once, no secret shown.

use ebbtide::config::check::Purpose;
use ebbtide::config::{Config, ConfigError};

const EXAMPLE: &str = include_str!("../ebbtide.example.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "test.toml", Purpose::Run, [])
}

fn problems(text: &str) -> Vec<String> {
    let error = parse(text).expect_err("the text has problems");
    error.problems().iter().map(ToString::to_string).collect()
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, "test.toml", Purpose::Run, env)
}

/// `#key = value` is a default; `#? key = value` an example of a key that has none.
#[test]
fn the_example_shows_every_default() {
    let is_default = |line: &&str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
    assert!(EXAMPLE.lines().filter(is_default).count() >= 25, "the defaults are there, commented");
    let bare: String =
        EXAMPLE.lines().map(|line| if is_default(&line) { &line[1..] } else { line }.to_owned() + "\n").collect();
    assert_eq!(parse(&bare).expect("the defaults are valid"), Config::with_brokers("localhost:9092"));
    assert_eq!(parse(EXAMPLE).expect("the example is valid"), Config::with_brokers("localhost:9092"));
}

#[test]
fn the_examples_in_the_example_are_valid_too() {
    let strip = |line: &str| line.strip_prefix("#? ").unwrap_or(line).to_owned() + "\n";
    let all: String = EXAMPLE.lines().map(strip).collect();
    let config = parse(&all).expect("the examples are valid");
    assert!(config.events.activation.is_some() && config.policy.survival.is_some() && config.http.token.is_some());
    let names: Vec<&str> = config.segments.iter().map(|segment| &*segment.name).collect();
    let shipped = ["high_value_churned", "never_activated_churned", "recent_churned", "declining_high_value"];
    assert_eq!(names, shipped);
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn all_problems_come_at_once_with_their_paths() {
    let found = problems(
        r#"
        worker = 4
        [kafka]
        brokers = "localhost:http"
        [policy]
        lapsed_after = "100d"
        at_risk = { decline_ratio = 2, window = "36h" }
        [topics]
        events = "a b"
        transitions = "same"
        states = "same"
        [events]
        activity = ["*middle*"]
        preset = "mixpannel"
        [polcy]
        x = 1
        [time]
        lateness = "10"
        "#,
    );
    for (path, says) in [
        ("worker", "did you mean `workers`?"),
        ("kafka.brokers", "no valid port"),
        ("policy.lapsed_after", "must not be longer than churned_after"),
        ("policy.at_risk.decline_ratio", "0.0 to 1.0"),
        ("policy.at_risk.window", "whole days"),
        ("topics.events", "letters, digits"),
        ("topics.states", "topics.transitions already"),
        ("events.activity[0]", "end of an event name"),
        ("events.preset", "did you mean `mixpanel`?"),
        ("polcy", "did you mean `policy`?"),
        ("time.lateness", "no unit"),
    ] {
        let hit = found.iter().any(|line| line.starts_with(&format!("{path}: ")) && line.contains(says));
        assert!(hit, "{path}: {says}\n{}", found.join("\n"));
    }
}

#[test]
fn a_segment_is_checked_as_strictly_as_everything_else() {
    let found = problems(
        r#"
        kafka.brokers = "a:1"
        [win_back]
        holdout = 1.5
        windw = "1d"
        [[segments]]
        name = "no name"
        state = ["churned", "gone"]
        core_actions = { min = -1, most = 3 }
        idle = { from = "30", to = "2d" }
        [[segments]]
        name = "twice"
        when = "plan =="
        activated = "yes"
        [[segments]]
        name = "twice"
        [[segments]]
        name = "twice"
        idle = { from = "3d", to = "2d" }
        [[segments]]
        whn = "true"
        "#,
    );
    for (path, says) in [
        ("win_back.holdout", "0.0 to 1.0"),
        ("win_back.windw", "did you mean `win_back.window`?"),
        ("segments[0].name", "is no name"),
        ("segments[0].state[1]", "none of active, at_risk, lapsed, churned"),
        ("segments[0].core_actions.min", "must be 0 to"),
        ("segments[0].core_actions.most", "no such key"),
        ("segments[0].idle.from", "no unit"),
        ("segments[1].when", "no CEL expression"),
        ("segments[1].activated", "true or false"),
        ("segments[3].idle", "not later than `from`"),
        ("segments[4].name", "is needed"),
        ("segments[4].whn", "did you mean `when`?"),
    ] {
        let hit = found.iter().any(|line| line.starts_with(&format!("{path}: ")) && line.contains(says));
        assert!(hit, "{path}: {says}\n{}", found.join("\n"));
    }
    let repeated = problems("kafka.brokers = \"a:1\"\nsegments = [{ name = \"s\" }, { name = \"s\" }]");
    assert!(repeated.iter().any(|line| line.starts_with("segments[1].name: ")), "{repeated:?}");
}

#[test]
fn segments_come_from_the_environment_and_warn_of_conditions_on_time() {
    let segments = r#"[{ name = "s", when = "idle_days > 3 && p_alive < 0.5 && properties.plan == 'pro'" }]"#;
    let env = [("EBBTIDE_SEGMENTS", segments), ("EBBTIDE_WIN_BACK__HOLDOUT", "0.1"), ("EBBTIDE_WIN_BACK__SALT", "x")];
    let config = with_env("kafka.brokers = \"a:1\"", &env).expect("valid");
    assert_eq!((config.segments.len(), config.win_back.holdout.is_some()), (1, true));
    let warnings = config.warnings().join("\n");
    for part in ["segments[0].when (s): ", "`idle_days`", "`p_alive`", "properties.plan"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
}

#[test]
fn retention_reports_are_read_strictly() {
    let text = r#"
        kafka.brokers = "a:1"
        [[retention]]
        name = "core"
        start = "Project Created"
        return = ["*"]
        count = 13
        [[retention]]
        name = "paid"
        start = [{ event = "Upgraded", where = { plan = "pro" } }]
        period = "month"
    "#;
    let config = parse(text).expect("valid");
    let [core, paid] = config.retention.as_slice() else { panic!("{:?}", config.retention) };
    assert_eq!((core.name.as_str(), core.period.as_str(), core.count), ("core", "week", 13));
    assert_eq!((paid.period.as_str(), paid.count, config.events.reports.len()), ("month", 12, 2));
    let found = problems(
        r#"
        kafka.brokers = "a:1"
        [[retention]]
        name = "a b"
        start = "*x"
        retrun = "*"
        [[retention]]
        period = "year"
        count = 61
        [[retention]]
        name = "twice"
        start = []
        [[retention]]
        name = "twice"
        "#,
    );
    for (path, says) in [
        ("retention[0].name", "letters, digits"),
        ("retention[0].start", "end of an event name"),
        ("retention[0].retrun", "did you mean `return`?"),
        ("retention[1].name", "is needed"),
        ("retention[1].period", "none of day, week, month"),
        ("retention[1].count", "1 to 60"),
        ("retention[2].start", "is empty"),
        ("retention[3].name", "another report's name"),
    ] {
        let hit = found.iter().any(|line| line.starts_with(&format!("{path}: ")) && line.contains(says));
        assert!(hit, "{path}: {says}\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), 8, "{}", found.join("\n"));
}

#[test]
fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
    let found = problems("brokers = \"localhost:9092\"");
    assert!(found.iter().any(|line| line.contains("did you mean `kafka.brokers`?")), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("kafka.brokers: is needed")), "{found:?}");
}

#[test]
fn the_environment_overrides_the_file_and_is_named_when_wrong() {
    let env = [
        ("EBBTIDE_KAFKA__BROKERS", "other:9092"),
        ("EBBTIDE_POLICY__AT_RISK__INACTIVE_AFTER", "off"),
        ("EBBTIDE_EVENTS__IGNORE", "Ping,Heartbeat*"),
        ("EBBTIDE_KAFKA__GROUP_ID", "42"),
        ("EBBTIDE_KAFKA__PROPERTIES__SASL__PASSWORD", "0123"),
        ("EBBTIDE_WORKERS", "3"),
        // Kubernetes sets these by itself for a service of this name.
        ("EBBTIDE_PORT", "tcp://10.0.0.1:8080"),
        ("EBBTIDE_SERVICE_HOST", "10.0.0.1"),
    ];
    let config = with_env("kafka.brokers = \"one:9092\"", &env).expect("all of it is valid");
    assert_eq!(config.kafka.brokers, "other:9092");
    assert_eq!(config.kafka.group_id, "42");
    assert_eq!(config.kafka.properties.get("sasl.password"), Some("0123"));
    assert_eq!((config.workers, config.policy.inactive_after), (3, None));
    assert_eq!(config.events.ignore.patterns().len(), 2);
    let error = with_env("", &[("EBBTIDE_KAFKA__BROKERS", "a:0")]).expect_err("port 0 is none").to_string();
    assert!(error.contains("set by EBBTIDE_KAFKA__BROKERS"), "{error}");
}

#[test]
fn a_secret_is_shown_by_nothing() {
    let text =
        "kafka.brokers = \"a:1\"\nkafka.properties = { \"sasl.password\" = \"hunter2\" }\nhttp.token = \"hunter2\"";
    let config = parse(text).expect("valid");
    assert!(!format!("{config:?}").contains("hunter2"));
    let broken = parse("http.token = \"hunter2").expect_err("the quote is open").to_string();
    assert!(!broken.contains("hunter2"), "{broken}");
}

#[test]
fn a_policy_alone_is_enough_to_replay() {
    let policy =
        Config::parse("lapsed_after = \"10d\"\nat_risk = { inactive_after = \"off\" }", "p.toml", Purpose::Rules, []);
    let policy = policy.expect("valid").policy;
    assert_eq!((policy.lapsed_after.as_days(), policy.inactive_after), (10.0, None));
}
