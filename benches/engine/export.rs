//! An audience of a million is written to a file while the worker runs at half load (issue 3, "What it must show", 6).
//!
//! Latency is that of records sent while one export followed the other, against those sent before. The last file is read
//! back by another reader, Apache Arrow's, where `tools/setup test` has made a Python that has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ebbtide::clock::{Clock as _, SystemClock, monotonic};
use ebbtide::time::Span;
use serde_json::Value;

use crate::case::{Figure, Scale};
use crate::latency::{self, Load, WARM_UP};
use crate::population::Population;
use crate::program::Program;
use crate::served::seed;
use crate::support::kafka::{Broker, temporary_folder};

/// How long the load runs until what the restore has left behind (compactions, a backlog) is done with.
const SETTLE: Duration = Duration::from_secs(25);
/// How long latency is measured before the export, and how long exports follow one another.
const BEFORE: Duration = Duration::from_secs(15);
const DURING: Duration = Duration::from_secs(10);
/// How long the load goes on.
const AFTER: Duration = Duration::from_secs(1);
/// How long the export may take.
const EXPORT_MAX: Duration = Duration::from_mins(10);
const LOOK: Duration = Duration::from_millis(20);
/// Nobody of the exported is due before that.
const DUE_IN: Span = Span::from_days(5);

pub(crate) fn export(scale: &Scale, broker: &Broker, round: u16) -> anyhow::Result<Vec<Figure>> {
    let sustained = latency::sustained(scale, broker, &format!("export-full-{round}"))?;
    let due_by = SystemClock.now().as_event_time() + DUE_IN;
    let mut population = Population::dormant(scale.exported, scale.partitions, due_by)?;
    let mut program = Program::new(broker, &format!("export-{round}"), scale.partitions)?;
    let (records, _) = seed(&mut program, broker, &mut population, scale.partitions)?;
    let users = records - u64::try_from(scale.partitions)?;
    drop(population);
    program.start()?;
    program.wait_until_ready()?;

    let folder = temporary_folder("bench-export");
    let file = folder.join("audience.parquet");
    let started = monotonic();
    let load = Load { per_second: sustained / 2.0, started, until: started + WARM_UP + SETTLE + BEFORE + EXPORT_MAX };
    let (done, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let (events, transitions, brokers) =
        (program.topic("events"), program.topic("transitions"), program.brokers().to_owned());
    let sender = broker.sender();
    let (began, ended, exports, before, during, timed) = std::thread::scope(|scope| -> anyhow::Result<_> {
        let sending = scope.spawn(|| {
            let sent = latency::send(&sender, &events, scale, load, &stop);
            done.store(true, Ordering::Relaxed);
            sent
        });
        let reading = scope.spawn(|| latency::read(&brokers, &transitions, scale.partitions, started, &done));
        let exported = (|| {
            std::thread::sleep(WARM_UP + SETTLE + BEFORE);
            let before = program.usage()?;
            let began = started.elapsed();
            let mut exports = 0_u32;
            while started.elapsed() < began + DURING {
                write(&mut program, &file)?;
                exports += 1;
            }
            let ended = started.elapsed();
            let during = program.usage()?;
            std::thread::sleep(AFTER);
            anyhow::Ok((began, ended, exports, before, during))
        })();
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        let timed = reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        let (began, ended, exports, before, during) = exported?;
        Ok((began, ended, exports, before, during, timed))
    })?;
    program.stop()?;

    let took = ended.saturating_sub(began);
    let of = |from: Duration, to: Duration| {
        let within = timed.iter().filter(|(sent, _)| (from..to).contains(sent)).map(|(_, latency)| *latency);
        let mut all: Vec<f64> = within.collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (quiet, busy) = (of(began.saturating_sub(BEFORE), began), of(began, ended));
    ensure!(quiet.len() > 100 && busy.len() > 100, "{} and {} transitions were timed", quiet.len(), busy.len());
    let at = |all: &[f64], share: usize| all[(all.len() - 1) * share / 100];
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut figures = vec![
        Figure::new("half load", "events/s", sustained / 2.0),
        Figure::new("users exported", "", users as f64),
        Figure::new("an export takes", "s", took.as_secs_f64() / f64::from(exports)),
        Figure::new("file", "MiB", mebibytes(fs::metadata(&file)?.len())),
        Figure::new("p50 before", "ms", at(&quiet, 50)),
        Figure::new("p50 during", "ms", at(&busy, 50)),
        Figure::new("p99 before", "ms", at(&quiet, 99)),
        Figure::new("p99 during", "ms", at(&busy, 99)),
        Figure::new("p99 during / before", "", at(&busy, 99) / at(&quiet, 99)),
        Figure::new("peak memory before", "MiB", mebibytes(before.peak_memory)),
        Figure::new("peak memory with the export", "MiB", mebibytes(during.peak_memory)),
    ];
    if let Some(read) = read_back(&file)? {
        // Those who came while the load ran are active too.
        let rows = read["rows"].as_u64().context("rows")?;
        ensure!(rows >= users, "another reader finds {rows} of {users} users");
        figures.push(Figure::new("rows that Apache Arrow reads", "", rows as f64));
    } else {
        eprintln!("no Python with pyarrow: the file was not read back (tools/setup test)");
    }
    fs::remove_dir_all(folder)?;
    Ok(figures)
}

/// `ebbtide export`, to its end.
fn write(program: &mut Program, file: &Path) -> anyhow::Result<()> {
    let mut child = program
        .command("export")?
        .args(["--state", "active", "--quiet", "--output"])
        .arg(file)
        .stdin(Stdio::null())
        .spawn()
        .context("starting the export")?;
    let deadline = monotonic() + EXPORT_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "the export ended with {status}");
            return Ok(());
        }
        if monotonic() >= deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("the export takes longer than {EXPORT_MAX:?}");
        }
        std::thread::sleep(LOOK);
    }
}

/// What another reader finds in the file; `None` without that reader.
fn read_back(file: &Path) -> anyhow::Result<Option<Value>> {
    let Some(python) = crate::support::python::with_arrow() else { return Ok(None) };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/independent/parquet_file.py");
    let output = Command::new(python).arg(script).arg(file).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "another reader: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(serde_json::from_slice(&output.stdout)?))
}
