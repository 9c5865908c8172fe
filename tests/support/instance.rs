//! The real program, run as an operator would run it, and hurt as machines hurt it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::kafka::{Broker, eventually, temporary_folder};

/// The program under test; `None` only where there is no binary to build.
pub(crate) const PROGRAM: Option<&str> = option_env!("CARGO_BIN_EXE_ebbtide");
/// SPEC issue 2: SIGTERM to exit. A loaded machine gets a little more before the test calls it a hang.
const SHUTDOWN_MAX: Duration = Duration::from_secs(15);

/// One deployment: a group, its topics, its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    /// Prefix of all topics, and the group.
    pub(crate) name: String,
    pub(crate) brokers: String,
    pub(crate) commit_interval: Duration,
    /// More of the configuration file: whole tables.
    pub(crate) settings: String,
}

/// One process of a deployment.
pub(crate) struct Instance {
    deployment: Deployment,
    id: String,
    folder: PathBuf,
    http: String,
    child: Option<Child>,
    /// Length of the log when it was last started.
    log_from: usize,
}

/// A population that sends its events.
pub(crate) struct Generator {
    child: Child,
}

impl Generator {
    /// Waits until all of them are sent.
    pub(crate) fn finish(mut self) {
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "generate ended with {status}");
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Deployment {
    pub(crate) fn new(broker: &Broker, name: &str, settings: &str) -> Self {
        Self {
            name: name.to_owned(),
            brokers: broker.address().to_owned(),
            commit_interval: Duration::from_millis(100),
            settings: settings.to_owned(),
        }
    }

    pub(crate) fn events(&self) -> String {
        format!("{}.events", self.name)
    }

    pub(crate) fn transitions(&self) -> String {
        format!("{}.transitions", self.name)
    }

    pub(crate) fn states(&self) -> String {
        format!("{}.states", self.name)
    }

    pub(crate) fn segments(&self) -> String {
        format!("{}.segments", self.name)
    }

    pub(crate) fn outcomes(&self) -> String {
        format!("{}.outcomes", self.name)
    }

    pub(crate) fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.name)
    }

    /// An instance of it, not yet started.
    pub(crate) fn instance(&self, id: &str) -> Instance {
        let folder = temporary_folder(&format!("{}-{id}", self.name));
        // Nobody else is given this port in the meantime, most likely; a program that cannot bind says so in its log.
        let http = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let instance = Instance {
            deployment: self.clone(),
            id: id.to_owned(),
            folder,
            http: http.to_string(),
            child: None,
            log_from: 0,
        };
        instance.write_configuration();
        instance
    }
}

impl Instance {
    fn write_configuration(&self) {
        let Deployment { name, brokers, commit_interval, settings } = &self.deployment;
        let commit = commit_interval.as_millis();
        let tables = tables(name, brokers, &self.state_folder(), "64MiB", &self.http);
        let text = format!(
            "instance_id = \"{}\"\nworkers = 2\ncommit_interval = \"{commit}ms\"\n{tables}\n{settings}\n",
            self.id
        );
        fs::write(self.configuration(), text).expect("a configuration file");
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("ebbtide.toml")
    }

    pub(crate) fn program() -> &'static Path {
        Path::new(PROGRAM.expect("cargo builds the program along with the tests"))
    }

    /// How it ended by itself, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a child")?;
        self.child = None;
        Some(status)
    }

    /// Waits until it has ended by itself, with an error, and gives what it logged since it was started.
    pub(crate) fn refused(&mut self) -> String {
        let mut status = None;
        eventually(&format!("{} to end by itself", self.id), || {
            status = self.ended();
            status.is_some()
        });
        let log = self.log_since_start();
        assert!(status.is_some_and(|status| status.code() == Some(1)), "{} ended with {status:?}: {log}", self.id);
        log
    }

    /// What it logged since it was last started.
    pub(crate) fn log_since_start(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_from..).unwrap_or_default()).into_owned()
    }

    /// Everything it has: configuration, log, state.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn state_folder(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Where the program's log is kept, over all of its lives.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[], &[]);
    }

    /// The same with more arguments and with variables of the environment.
    pub(crate) fn start_with(&mut self, arguments: &[&str], environment: &[(&str, &str)]) {
        self.start_as(Self::program(), arguments, environment);
    }

    /// The same with another program, which takes the same arguments.
    pub(crate) fn start_as(&mut self, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "{} runs already", self.id);
        let log = File::options().create(true).append(true).open(self.log()).expect("a log file");
        self.log_from = usize::try_from(log.metadata().expect("a length").len()).expect("a small log");
        let child = Command::new(program)
            .envs(environment.iter().copied())
            .arg("run")
            .arg("--config")
            .arg(self.configuration())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
    }

    /// Exit code and output of `ebbtide check` with this configuration.
    pub(crate) fn check(&self) -> (Option<i32>, String) {
        let output = Command::new(Self::program()).arg("check").arg("--config").arg(self.configuration()).output();
        let output = output.expect("the program runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    }

    /// Where the console is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.http)
    }

    /// `host:port` of the HTTP server.
    pub(crate) fn address(&self) -> &str {
        &self.http
    }

    /// `ebbtide generate --to-topic` into its events topic, beside it.
    pub(crate) fn generate(&self, arguments: &[&str]) -> Generator {
        let child = Command::new(PROGRAM.expect("cargo builds the program along with the tests"))
            .args(["generate", "--to-topic", "--config"])
            .arg(self.configuration())
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        Generator { child }
    }

    /// Processor time that it has taken so far, of all its threads. Linux.
    pub(crate) fn processor_time(&self) -> Duration {
        let pid = self.child.as_ref().expect("it runs").id();
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux tells");
        // After the name, which is in brackets: state is field 3, user and system time are 14 and 15, in hundredths.
        let fields: Vec<&str> = text.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(10 * ticks)
    }

    /// SIGKILL, at whatever instant this is. Fails the test if the program ended by itself before.
    pub(crate) fn kill(&mut self) {
        self.assert_alive();
        let mut child = self.child.take().expect("asserted");
        child.kill().expect("killed");
        child.wait().expect("gone");
    }

    /// Loses the disk. Only while it is not running.
    pub(crate) fn wipe(&self) {
        assert!(self.child.is_none(), "{} still runs", self.id);
        if self.state_folder().exists() {
            fs::remove_dir_all(self.state_folder()).expect("removed");
        }
    }

    /// SIGTERM, and out within the time that SPEC gives it.
    pub(crate) fn stop(&mut self) {
        self.assert_alive();
        self.signal("TERM");
        let status = self.wait(SHUTDOWN_MAX);
        assert!(status.success(), "{} stopped with {status}; {}", self.id, self.tail());
    }

    /// SIGTERM while anything may be broken around it: it may end as it stands, but it has to end.
    pub(crate) fn leave(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(SHUTDOWN_MAX)
    }

    pub(crate) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill is there");
        assert!(status.success(), "no {name} for {}", self.id);
    }

    pub(crate) fn assert_alive(&mut self) {
        let child = self.child.as_mut().expect("it was started");
        if let Some(status) = child.try_wait().expect("a child") {
            panic!("{} ended by itself with {status}; {}", self.id, self.tail());
        }
    }

    fn wait(&mut self, patience: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it was started");
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status;
            }
            if Instant::now() > deadline {
                child.kill().ok();
                child.wait().ok();
                panic!("{} did not end within {patience:?}; {}", self.id, self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The body of a page of the HTTP API, once it is answered with 200.
    pub(crate) fn page(&mut self, path: &str) -> String {
        let mut body = String::new();
        eventually(&format!("{} to answer {path}", self.id), || {
            self.assert_alive();
            self.get(path).is_some_and(|(status, text)| {
                body = text;
                status == 200
            })
        });
        body
    }

    /// Status and body, without waiting; `None` when nobody answers.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask("GET", path)
    }

    /// The same with any method.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Option<(u16, String)> {
        ask(&self.http, method, path)
    }

    /// The sum of a metric over its labels; `None` when it is not there (yet).
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        sum(&text, name, |_| true)
    }

    /// The end of the log, for a test that fails.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("its log ends with:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

/// The tables of a configuration that depend on where things are; all topics and the group bear `name`.
pub(crate) fn tables(name: &str, brokers: &str, state: &Path, memory: &str, http: &str) -> String {
    format!(
        r#"
[kafka]
brokers = "{brokers}"
group_id = "{name}"

[topics]
events = "{name}.events"
transitions = "{name}.transitions"
states = "{name}.states"
segments = "{name}.segments"
outcomes = "{name}.outcomes"
dead_letters = "{name}.dead-letters"
changelog = "{name}.changelog"

[state]
dir = "{}"
memory = "{memory}"

[http]
listen = "{http}"
"#,
        state.display()
    )
}

/// Status and body of a page; `None` when nobody answers at `address`.
pub(crate) fn get(address: &str, path: &str) -> Option<(u16, String)> {
    ask(address, "GET", path)
}

fn ask(address: &str, method: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The sum of a metric over those of its series whose labels `wanted` takes; `None` when there is none.
pub(crate) fn sum(text: &str, name: &str, wanted: impl Fn(&str) -> bool) -> Option<f64> {
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']) && wanted(rest)))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("{}: {}", self.id, self.tail());
        } else {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}
