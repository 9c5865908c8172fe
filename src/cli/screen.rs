//! The terminal: progress bars and the demo's table below, log lines above them. Where standard error is no terminal,
//! there are log lines alone.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// Redraws a second, at most.
const REFRESH_HZ: u8 = 10;

/// Standard error, shared by bars and the log. Clones are the same screen.
#[derive(Clone, Debug)]
pub struct Screen {
    bars: MultiProgress,
}

impl Default for Screen {
    fn default() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REFRESH_HZ)) }
    }
}

impl Screen {
    /// Whether somebody sees the bars.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// A bar of `total` steps in a style of indicatif's template language; nothing where this is no terminal.
    #[must_use]
    pub fn bar(&self, total: u64, template: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bars.add(ProgressBar::new(total).with_style(style))
    }

    /// Lines that replace each other in place: set them as the bar's message.
    #[must_use]
    pub fn panel(&self) -> ProgressBar {
        self.bar(0, "{msg}")
    }
}

/// Writes above the bars.
#[derive(Clone, Debug)]
pub struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(text))
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        self.0.suspend(|| io::stderr().write_all(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Screen {
    type Writer = AboveBars;

    fn make_writer(&self) -> AboveBars {
        AboveBars(self.bars.clone())
    }
}
