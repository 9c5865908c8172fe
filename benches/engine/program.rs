//! The real program as a child process, and what it has done so far, seen from outside.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ebbtide::clock::monotonic;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::support::instance::{get, tables};
use crate::support::kafka::{Broker, temporary_folder};
use crate::usage::Usage;

/// How long anything may take that has to happen: restoring five million users on a loaded machine included.
const PATIENCE: Duration = Duration::from_mins(15);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);
const REQUEST: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A deployment of one process; its group and topics bear its name.
pub(crate) struct Program {
    name: String,
    brokers: String,
    partitions: i32,
    folder: PathBuf,
    http: String,
    child: Option<Child>,
    looker: BaseConsumer,
}

/// How far the group has come, and what that has cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) events: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) at: Instant,
}

impl Program {
    /// Creates the input topic and the configuration; starts nothing. Everything is at its default but for names, and
    /// that only events move time.
    pub(crate) fn new(broker: &Broker, name: &str, partitions: i32) -> anyhow::Result<Self> {
        let folder = temporary_folder(name);
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let (brokers, state) = (broker.address(), folder.join("state"));
        let tables = tables(name, brokers, &state, "256MiB", &http);
        let text =
            format!("instance_id = \"bench\"\n{tables}\n[time]\nidle_after = \"24h\"\n\n[log]\nlevel = \"warn\"\n");
        fs::write(folder.join("ebbtide.toml"), text)?;
        let looker = ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", name).create()?;
        broker.create_topic(&format!("{name}.events"), partitions, &[]);
        let (name, brokers) = (name.to_owned(), brokers.to_owned());
        Ok(Self { name, brokers, partitions, folder, http, child: None, looker })
    }

    pub(crate) fn topic(&self, which: &str) -> String {
        format!("{}.{which}", self.name)
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A command of the program, with this deployment's configuration.
    pub(crate) fn command(&self, name: &str) -> anyhow::Result<Command> {
        let program =
            option_env!("CARGO_BIN_EXE_ebbtide").context("cargo builds the program along with the benches")?;
        let mut command = Command::new(program);
        command.arg(name).arg("--config").arg(self.folder.join("ebbtide.toml"));
        Ok(command)
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let child = self.command("run")?.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until all shards are restored and reading.
    pub(crate) fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        self.wait("to be ready", |program| {
            let answer = get(&program.http, "/readyz");
            Ok(answer.is_some_and(|(status, _)| status == 200).then_some(()))
        })
    }

    /// Waits until `enough` gives something.
    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        mut enough: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = monotonic() + PATIENCE;
        loop {
            if let Some(found) = enough(self)? {
                return Ok(found);
            }
            if let Some(status) = self.child()?.try_wait()? {
                bail!("the program ended with {status} while waiting for it {what}; {}", self.log());
            }
            ensure!(monotonic() < deadline, "waited {PATIENCE:?} in vain for the program {what}; {}", self.log());
            std::thread::sleep(LOOK);
        }
    }

    /// What the group has committed, and what the process has used until now.
    pub(crate) fn progress(&mut self) -> anyhow::Result<Progress> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition(&self.topic("events"), partition);
        }
        let committed = self.looker.committed_offsets(list, REQUEST)?;
        let committed = committed.elements();
        let offsets = committed.iter().filter_map(|element| element.offset().to_raw()).filter(|raw| *raw > 0);
        let events = u64::try_from(offsets.sum::<i64>())?;
        Ok(Progress { events, cpu_seconds: self.usage()?.cpu_seconds, at: monotonic() })
    }

    /// Waits until the group has committed so many events in all.
    pub(crate) fn wait_for_events(&mut self, events: u64) -> anyhow::Result<Progress> {
        self.wait("to commit", |program| Ok(Some(program.progress()?).filter(|progress| progress.events >= events)))
    }

    pub(crate) fn usage(&mut self) -> anyhow::Result<Usage> {
        Usage::of(&self.child()?.id().to_string())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child()?.kill()?;
        self.child()?.wait()?;
        self.child = None;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let pid = self.child()?.id().to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success(), "no SIGTERM for {pid}");
        let deadline = monotonic() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.child()?.try_wait()? {
                self.child = None;
                ensure!(status.success(), "the program stopped with {status}; {}", self.log());
                return Ok(());
            }
            ensure!(monotonic() < deadline, "the program does not stop; {}", self.log());
            std::thread::sleep(LOOK);
        }
    }

    /// Loses the disk.
    pub(crate) fn wipe(&self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the program still runs");
        let state = self.folder.join("state");
        if state.exists() {
            fs::remove_dir_all(state)?;
        }
        Ok(())
    }

    fn child(&mut self) -> anyhow::Result<&mut Child> {
        self.child.as_mut().context("the program was not started")
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("its log ends with:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}
