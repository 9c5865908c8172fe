//! The console as people see it: a real browser looks at the program while people churn and return. What the page shows
//! is what the API says and what the transitions topic holds; it is usable on a phone, in the dark, by keyboard and by a
//! screen reader; it asks no other machine for anything, and little of this one.

#![expect(clippy::print_stderr, reason = "figures for whoever looks")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::browser::{Browser, Screen};
use support::instance::{Deployment, Instance, PROGRAM};
use support::kafka::{Broker, Message, Reader, eventually, temporary_folder};
use support::onlookers::Onlookers;

const STATES: [&str; 4] = ["active", "at_risk", "lapsed", "churned"];

/// Short against the defaults, so that a few months hold every kind of transition; and a guard that holds soon after the
/// last event.
const SETTINGS: &str = r#"
[events]
activation = ["Project Created"]
core = ["Task Completed"]

[properties]
track = ["plan", "country"]

[policy]
lapsed_after = "14d"
churned_after = "30d"

[policy.at_risk]
inactive_after = "7d"
window = "7d"

[time]
idle_after = "1s"
silence_guard = "5s"
"#;

/// Pictures of the page, for whoever wants to look; those in docs/images are made from a run of this.
fn picture(name: &str) -> PathBuf {
    let folder = std::env::var_os("EBBTIDE_PICTURES")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("console"), PathBuf::from);
    std::fs::create_dir_all(&folder).expect("a folder for pictures");
    folder.join(name)
}

/// The transitions topic, read along: who is where, and who went where.
struct Topic {
    reader: Reader,
    broker: &'static Broker,
    name: String,
}

impl Topic {
    fn read(&mut self) -> Vec<Value> {
        self.reader.read_to(&self.broker.ends(&self.name));
        let value = |message: &Message| serde_json::from_slice(message.value.as_deref().expect("a value"));
        self.reader.messages.iter().map(|message| value(message).expect("JSON")).collect()
    }
}

/// Users by state, from their last transitions.
fn cohorts(transitions: &[Value]) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for transition in transitions {
        last.insert(transition["user_id"].as_str().expect("an id"), transition["to"].as_str());
    }
    let mut sizes: BTreeMap<String, u64> = STATES.map(|state| (state.to_owned(), 0)).into();
    for state in last.into_values().flatten() {
        *sizes.get_mut(state).expect("a known state") += 1;
    }
    sizes
}

/// How many went from where to where; `null` is outside.
fn flows(transitions: &[Value]) -> BTreeMap<(String, String), u64> {
    let mut flows = BTreeMap::new();
    for transition in transitions {
        let end = |name: &str| transition[name].as_str().unwrap_or("null").to_owned();
        *flows.entry((end("from"), end("to"))).or_insert(0) += 1;
    }
    flows
}

/// The sizes that the tiles show, read at once: the page replaces all of them together, at any moment.
fn tiles(browser: &mut Browser) -> BTreeMap<String, u64> {
    let sizes = browser.read(
        "Object.fromEntries([...document.querySelectorAll('[data-size]')].map((e) => [e.dataset.size, e.innerText]))",
    );
    STATES
        .map(|state| {
            let shown = sizes[state].as_str().unwrap_or_else(|| panic!("{state} in {sizes}"));
            (state.to_owned(), shown.replace(',', "").parse().unwrap_or_else(|_| panic!("{state}: {shown}")))
        })
        .into()
}

/// The matrix of the page, without what is empty.
fn matrix(browser: &mut Browser) -> BTreeMap<(String, String), u64> {
    let cells = browser.read("[...document.querySelectorAll('#flow-table tbody td')].map((td) => td.innerText)");
    let ends = STATES.into_iter().chain(["null"]);
    let pairs = ends.clone().flat_map(|from| ends.clone().map(move |to| (from.to_owned(), to.to_owned())));
    let cells = cells.as_array().expect("cells").iter().map(|cell| cell.as_str().expect("text").replace(',', ""));
    pairs.zip(cells).filter_map(|(pair, text)| Some((pair, text.parse().ok()?))).collect()
}

/// Users by state in an answer of `/v1/cohorts`, activated or not together.
fn by_state(answer: &Value) -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::new();
    for cohort in answer["cohorts"].as_array().expect("cohorts") {
        *sizes.entry(cohort["state"].as_str().expect("a state").to_owned()).or_insert(0) +=
            cohort["users"].as_u64().expect("a number");
    }
    sizes
}

fn asked(instance: &mut Instance) -> BTreeMap<String, u64> {
    by_state(&serde_json::from_str(&instance.page("/v1/cohorts")).expect("JSON"))
}

/// How often the filters are changed while transitions pour in.
const CHANGES: usize = 8;

const ROWS: &str = "[...document.querySelectorAll('#stream tr')]";

#[test]
fn what_the_page_shows_is_what_the_topic_holds() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "console", SETTINGS);
    broker.create_topic(&deployment.events(), 4, &[]);
    let mut instance = deployment.instance("console-1");
    instance.start();
    instance.page("/readyz");
    let mut browser = Browser::start();

    // Nothing there yet: the page says so instead of showing an empty frame.
    browser.open(&instance.url(), Screen::DESK);
    browser.until("document.querySelector('#cohorts-note').innerText.startsWith('No user yet')");
    browser.until("document.querySelector('#connection').innerText === 'Live'");
    browser.until("document.querySelector('#live-note').innerText === 'Connected: nothing has matched yet.'");
    browser.until("document.querySelector('#flows-note').innerText === 'Nobody changed state in this period.'");
    browser.assert_accessible("the empty page");

    // People churn and return while we look.
    let generator = instance.generate(&["--users", "250", "--days", "240", "--rate", "2500"]);
    browser.until("Number(document.querySelector('[data-size=churned]').innerText.replace(',', '')) > 0");
    browser.until(&format!("{ROWS}.some((row) => row.innerText.includes('reactivated after'))"));
    browser.until("document.querySelector('#chart canvas') !== null");

    // The stream shows what fits its filter, and nothing else, however often one changes one's mind amid the traffic.
    for change in 0..CHANGES {
        if change > 0 {
            browser.select("#filters [name=kind]", "");
        }
        browser.select("#filters [name=state]", "churned");
        browser
            .until(&format!("{ROWS}.length > 2 && {ROWS}.every((row) => row.cells[3].innerText.trim() === 'churned')"));
        browser.select("#filters [name=state]", "");
        browser.select("#filters [name=kind]", "reactivated");
        browser.until(&format!(
            "{ROWS}.length > 2 && {ROWS}.every((row) => row.cells[4].innerText.startsWith('reactivated'))"
        ));
    }
    let streams = browser.assert_clean().into_iter().filter(|request| request.path.starts_with("/v1/transitions"));
    let streams: Vec<_> = streams.map(|request| request.path).collect();
    let wanted = ["", "?state=churned", "", "?kind=reactivated"].repeat(CHANGES);
    let wanted: Vec<_> = wanted.iter().map(|query| format!("/v1/transitions{query}")).collect();
    assert_eq!(streams, wanted, "one stream a choice");

    // All is sent and settled: page, API and topic agree to the last user and the last move.
    generator.finish();
    let mut topic = Topic { reader: broker.reader(&deployment.transitions()), broker, name: deployment.transitions() };
    let mut seen = None;
    eventually("page, API and topic to agree", || {
        let transitions = topic.read();
        let wanted = (cohorts(&transitions), flows(&transitions));
        seen = Some((tiles(&mut browser), matrix(&mut browser)));
        seen.as_ref() == Some(&wanted) && asked(&mut instance) == wanted.0 && topic.read().len() == transitions.len()
    });
    let (sizes, moved) = seen.expect("just seen");
    assert!(sizes["churned"] > 0 && sizes["active"] > 0, "{sizes:?}");
    let returned = ("churned".to_owned(), "active".to_owned());
    assert!(moved.get(&returned).is_some_and(|users| *users > 0), "nobody returned: {moved:?}");
    let transitions = topic.read();

    // One person: the latest who returned, chosen from the list; by keyboard from there on.
    browser.click("#stream button");
    browser.until("document.querySelector('#person .verdict') !== null");
    let id = browser.read(&format!("{ROWS}[0].cells[1].innerText"));
    let id = id.as_str().expect("an id").trim().to_owned();
    assert_person(&mut browser, &id, &transitions);
    browser.read("scrollTo(0, 0)");
    browser.picture(&picture("light.png"), true);
    browser.assert_accessible("everything filled");

    let other = transitions.last().expect("some")["user_id"].as_str().expect("an id").to_owned();
    browser.fill("#lookup [name=user]", &other);
    browser.press("Enter");
    browser.until(&format!("document.querySelector('#person .verdict')?.innerText.startsWith({})", json!(other)));
    assert_person(&mut browser, &other, &transitions);
    browser.fill("#filters [name=user]", &other);
    browser.select("#filters [name=kind]", "");
    browser.until(&format!(
        "{ROWS}.length > 0 && {ROWS}.every((row) => row.cells[1].innerText.trim() === {})",
        json!(other)
    ));
    browser.assert_clean();

    // The guard holds, because nothing comes any more.
    browser.until("!document.querySelector('#guard').hidden");
    assert!(browser.text("#guard").contains("The silence guard holds 4 of 4 shards"));

    assert_idle(&mut browser, sizes.values().sum());

    // Nobody of that name: said in words. The browser logs the 404 on its own.
    browser.fill("#lookup [name=user]", "nobody/of that name");
    browser.press("Enter");
    browser.until("document.querySelector('#person').innerText.includes('none knows this user')");
    browser.assert_error("404");

    for (screen, name) in [(Screen::DARK, "dark.png"), (Screen::PHONE, "phone.png")] {
        browser.open(&instance.url(), screen);
        browser.until(&format!("{ROWS}.length > 20 && document.querySelector('#chart canvas') !== null"));
        browser.fill("#lookup [name=user]", &id);
        browser.press("Enter");
        browser.until("document.querySelector('#person .verdict') !== null");
        let width = browser.read("document.documentElement.scrollWidth");
        assert_eq!(width.as_u64(), Some(u64::from(screen.width)), "{name}: the page is wider than the screen");
        browser.assert_accessible(name);
        browser.read("scrollTo(0, 0)");
        browser.picture(&picture(name), true);
        browser.assert_clean();
    }

    // The instance is gone: the page says so, keeps what it had, and comes back by itself.
    instance.kill();
    browser.until("document.querySelector('#connection').innerText === 'No answer'");
    browser.until("document.querySelector('#live-note').innerText.includes('Trying again')");
    browser.assert_accessible("without an answer");
    assert_eq!(tiles(&mut browser), sizes, "what was known stays");
    browser.forget();
    instance.start();
    browser.until("document.querySelector('#connection').innerText === 'Live'");
    instance.stop();
}

/// A page that is left alone asks at most once a second, for what it shows.
fn assert_idle(browser: &mut Browser, users: u64) {
    browser.requests();
    browser.leave_alone(12_000);
    let idle = browser.assert_clean();
    assert!(idle.len() >= 6, "the page asks for nothing: {idle:?}");
    // Three seconds for three more, whatever the machine does to a single one.
    for few in idle.windows(4) {
        let apart = few[3].at_ms - few[0].at_ms;
        assert!(apart >= 2600.0, "{apart} ms for {few:?}");
    }
    for answer in idle.iter().filter(|request| request.path == "/v1/cohorts") {
        assert_eq!(answer.body["users"].as_u64(), Some(users), "the page asks for what it shows");
    }
}

/// What the page says of a person is what the topic says: the state, and the latest steps, newest first.
fn assert_person(browser: &mut Browser, id: &str, transitions: &[Value]) {
    let mine: Vec<&Value> = transitions.iter().filter(|transition| transition["user_id"] == *id).collect();
    let words = |value: &Value, outside: &str| value.as_str().unwrap_or(outside).replace('_', " ");
    let last = mine.last().expect("the user has a history");
    assert_eq!(browser.text("#person .verdict"), format!("{id} {}", words(&last["to"], "no lifecycle yet")));
    let steps = browser.read(
        "[...document.querySelectorAll('#person .steps li')].map((li) => \
         [li.querySelector('time').dateTime, ...[...li.querySelectorAll('.state')].map((state) => state.innerText)])",
    );
    let steps = steps.as_array().expect("a list");
    assert!(!steps.is_empty() && steps.len() <= mine.len(), "{id}: {steps:?}");
    for (step, transition) in steps.iter().zip(mine.iter().rev()) {
        let wanted =
            json!([transition["effective_at"], words(&transition["from"], "new"), words(&transition["to"], "gone")]);
        assert_eq!(*step, wanted, "{id}");
    }
    let facts = browser.text("#person .facts");
    for name in ["Why", "Since", "Last active", "First active", "Activity", "plan", "country"] {
        assert!(facts.contains(name), "{id}: no {name} in {facts}");
    }
    let next_is_due = last["to"] != "churned";
    assert_eq!(facts.contains("Next"), next_is_due, "{id}: {facts}");
}

/// `ebbtide demo` on a real broker, until dropped.
struct Demo {
    child: Child,
    log: PathBuf,
}

impl Demo {
    fn start(broker: &Broker) -> Self {
        let log = temporary_folder("console-demo").join("log");
        let file = File::create(&log).expect("a log file");
        let child = Command::new(PROGRAM.expect("cargo builds the program along with the tests"))
            .args([
                "demo",
                "--day",
                "250ms",
                "--people",
                "400",
                "--listen",
                "127.0.0.1:0",
                "--brokers",
                broker.address(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the program starts");
        Self { child, log }
    }

    /// What it says between two marks, once it does.
    fn says(&mut self, mark: &str, end: &str) -> String {
        let mut said = String::new();
        eventually(mark, || {
            let text = std::fs::read_to_string(&self.log).expect("its log");
            assert!(self.child.try_wait().expect("a child").is_none(), "the demo has ended: {text}");
            let found = text.split_once(mark).and_then(|(_, rest)| rest.split_once(end));
            said = found.map(|(word, _)| word.to_owned()).unwrap_or_default();
            found.is_some()
        });
        said
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It removes its topics and its state.
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().ok();
        self.child.wait().ok();
    }
}

#[test]
fn the_demo_opens_on_a_page_that_lives() {
    let broker = Broker::shared();
    let mut demo = Demo::start(broker);
    let url = format!("{}/", demo.says("Console    ", "/\n"));
    let name = format!("{}.transitions", demo.says("topics ", ".events"));
    let mut browser = Browser::start();
    browser.open(&url, Screen::DESK);
    // Row and column of the matrix: churned to active.
    browser.until("/^[1-9]/.test(document.querySelectorAll('#flow-table tbody tr')[3]?.cells[1].innerText ?? '')");
    browser.until(&format!("{ROWS}.some((row) => row.innerText.includes('reactivated after'))"));

    // The tiles are what the page was told last, whatever moves meanwhile.
    browser.requests();
    browser.until("document.querySelector('#cohorts-note').innerText === 'All 4 shards, as of the last commit.'");
    browser.leave_alone(4_000);
    let (shown, answers) = (tiles(&mut browser), browser.assert_clean());
    let told = answers.iter().filter(|request| request.path == "/v1/cohorts" && !request.body.is_null());
    let told: Vec<_> = told.map(|request| by_state(&request.body)).collect();
    assert!(told.contains(&shown), "{shown:?} is none of {told:?}");

    // Counts only grow: what the page shows lies between what the topic held before and what it holds after.
    let mut topic = Topic { reader: broker.reader(&name), broker, name };
    let before = flows(&topic.read());
    eventually("the page to show what the topic held", || {
        let page = matrix(&mut browser);
        let after = flows(&topic.read());
        for (pair, users) in &page {
            let held = after.get(pair).copied().unwrap_or(0);
            assert!(*users <= held, "{pair:?}: the page shows {users}, the topic holds {held}");
        }
        before.iter().all(|(pair, users)| page.get(pair).is_some_and(|shown| shown >= users))
    });
    browser.click("#stream button");
    browser.until("document.querySelector('#person .verdict') !== null");
    browser.assert_accessible("the demo");
    for (screen, name) in [(Screen::DESK, "light"), (Screen::DARK, "dark"), (Screen::PHONE, "phone")] {
        browser.assert_clean();
        browser.open(&url, screen);
        browser.until(&format!("{ROWS}.length > 20 && document.querySelector('#chart canvas') !== null"));
        browser.click("#stream button");
        browser.until("document.querySelector('#person .verdict') !== null");
        browser.read("scrollTo(0, 0)");
        browser.picture(&picture(&format!("demo-{name}.png")), true);
    }
    browser.assert_clean();
}

#[test]
fn the_page_asks_for_the_token_and_then_opens() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "console-token", "");
    broker.create_topic(&deployment.events(), 1, &[]);
    let mut instance = deployment.instance("console-token-1");
    instance.start_with(&[], &[("EBBTIDE_HTTP__TOKEN", "open sesame")]);
    instance.page("/readyz");
    let mut browser = Browser::start();
    browser.open(&instance.url(), Screen::PHONE);
    browser.until("!document.querySelector('#token-form').hidden");
    browser.assert_accessible("asking for the token");
    browser.assert_error("401");
    browser.fill("#token", "open sesame");
    browser.press("Enter");
    browser.until("document.querySelector('#connection').innerText === 'Live'");
    browser.until("document.querySelector('#live-note').innerText.startsWith('Connected')");
    assert_eq!(browser.read("document.querySelector('#token-form').hidden"), json!(true));
    instance.stop();
}

/// Events and processor time a second, over a few seconds.
fn measure(instance: &Instance) -> (f64, f64) {
    let read = || {
        let events = instance.metric("ebbtide_events_total").expect("it answers");
        (Instant::now(), events, instance.processor_time())
    };
    let (began, events, processor) = read();
    // What is looked at is what happens in this time.
    std::thread::sleep(Duration::from_secs(6));
    let (ended, events_after, processor_after) = read();
    let seconds = (ended - began).as_secs_f64();
    ((events_after - events) / seconds, (processor_after.as_secs_f64() - processor.as_secs_f64()) / seconds)
}

#[test]
fn a_hundred_open_pages_do_not_slow_the_worker() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "crowd", SETTINGS);
    broker.create_topic(&deployment.events(), 4, &[]);
    let mut instance = deployment.instance("crowd-1");
    instance.start();
    instance.page("/readyz");
    let generator = instance.generate(&["--users", "20000", "--days", "240", "--rate", "10000"]);
    eventually("a stream of transitions", || {
        instance.metric("ebbtide_events_total").is_some_and(|events| events > 100_000.0)
    });
    let (events_alone, processor_alone) = measure(&instance);
    let pages = Onlookers::open(&instance.url(), 100);
    eventually("all pages to be open", || instance.metric("ebbtide_http_streams") == Some(100.0));
    let (events_watched, processor_watched) = measure(&instance);
    let (most, least, answers) = pages.rates();
    eprintln!(
        "alone: {events_alone:.0} events/s in {processor_alone:.3} cores; with 100 open pages: {events_watched:.0} \
         events/s in {processor_watched:.3} cores; a page is shown {least:.0} to {most:.0} transitions/s, and all \
         together get {answers:.0} answers/s"
    );
    assert!(answers > 50.0, "the pages ask");
    assert!(most <= 110.0, "a stream sends a hundred a second at most, and fifty to begin with: {most}");
    assert!(least > 1.0, "every page is shown something: {least}");
    assert!(events_watched > 0.8 * events_alone, "the worker keeps up: {events_watched} of {events_alone} events/s");
    // Half of a core, on whatever machine this is.
    assert!(processor_watched < processor_alone + 0.5, "{processor_watched} against {processor_alone} cores");
    drop((pages, generator));
    instance.stop();
}
