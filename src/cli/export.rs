//! `ebbtide export`: an audience as a file, from a running instance (SPEC-WINBACK section 14).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::header::HeaderName;

use super::source::is_standard;
use super::{ConfigArgs, WrongArgument};
use crate::config::check::Purpose;
use crate::http::export::{SHARDS_HEADER, USERS_HEADER};

/// Arguments of `ebbtide export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The users in this segment
    #[arg(long, value_name = "NAME", required_unless_present = "state", conflicts_with = "state")]
    segment: Option<String>,
    /// The users in this state: active, `at_risk`, lapsed or churned
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Where to write; `-` is standard output. The file appears only once it is whole
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// The format [default: what the file's name ends in, else csv]
    #[arg(short, long, value_enum)]
    format: Option<FormatArg>,
    /// The running instance [default: http.listen of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Take what this instance has, though other shards are elsewhere
    #[arg(long)]
    partial: bool,
    /// Show no progress bar
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A format as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// Comma-separated values, safe to open in a spreadsheet
    Csv,
    /// One JSON object a line
    Jsonl,
    /// Apache Parquet
    Parquet,
}

impl ExportArgs {
    fn extension(&self) -> &'static str {
        let of_name = || match self.output.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => FormatArg::Jsonl,
            Some("parquet") => FormatArg::Parquet,
            _ => FormatArg::Csv,
        };
        match self.format.unwrap_or_else(of_name) {
            FormatArg::Csv => "csv",
            FormatArg::Jsonl => "jsonl",
            FormatArg::Parquet => "parquet",
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The instance cannot be reached, refuses, or holds only a part; the file cannot be written.
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(export(args))
}

async fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let config = args.config.load(Purpose::Rules)?;
    let base = args.url.clone().unwrap_or_else(|| format!("http://{}", config.http.listen));
    let mut url = reqwest::Url::parse(&base).map_err(|error| WrongArgument(format!("--url {base}: {error}")))?;
    let (kind, name) = match (&args.segment, &args.state) {
        (Some(segment), _) => ("segments", segment.as_str()),
        (None, state) => ("states", state.as_deref().unwrap_or_default()),
    };
    let file = format!("users.{}", args.extension());
    url.path_segments_mut()
        .map_err(|()| WrongArgument(format!("--url {base} is no address of a server")))?
        .pop_if_empty()
        .extend(["v1", kind, name, &file]);
    let mut request = reqwest::Client::new().get(url.clone());
    if let Some(token) = &config.http.token {
        request = request.bearer_auth(token.expose());
    }
    let mut answer =
        request.send().await.with_context(|| format!("cannot reach {base}; is `ebbtide run` running there?"))?;
    if !answer.status().is_success() {
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        let detail = serde_json::from_str::<serde_json::Value>(&text).ok();
        let detail = detail.and_then(|problem| Some(problem["detail"].as_str()?.to_owned())).unwrap_or(text);
        anyhow::bail!("{base} answers {status}: {detail}");
    }
    let header =
        |name: &HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let shards = header(&SHARDS_HEADER).unwrap_or_default();
    if shards.split_once('/').is_none_or(|(here, of)| here != of) && !args.partial {
        anyhow::bail!(
            "{base} holds {shards} of the shards: export from every instance with --partial, and join the files"
        );
    }
    let users = header(&USERS_HEADER).unwrap_or_default();
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let style = "{spinner} exporting {msg} users: {bytes} {bytes_per_sec} {elapsed}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(users);
    let mut target = Target::create(&args.output)?;
    let failed = || format!("cannot write {}", args.output.display());
    while let Some(piece) = answer.chunk().await.with_context(|| format!("{base} broke the export off"))? {
        target.out.write_all(&piece).with_context(failed)?;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    target.finish(&args.output).with_context(failed)
}

/// A file under another name until it is whole.
struct Target {
    out: Box<dyn Write>,
    part: Option<PathBuf>,
}

impl Target {
    fn create(path: &Path) -> anyhow::Result<Self> {
        if is_standard(path) {
            return Ok(Self { out: Box::new(BufWriter::new(io::stdout())), part: None });
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        let file = File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
        Ok(Self { out: Box::new(BufWriter::new(file)), part: Some(part) })
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        self.out.flush()?;
        match self.part.take() {
            Some(part) => std::fs::rename(part, path),
            None => Ok(()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // What is not whole is of no use; if it cannot be removed, its name says what it is.
            let _ = std::fs::remove_file(part);
        }
    }
}
