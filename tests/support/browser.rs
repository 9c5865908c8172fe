//! A real browser: Debian's Chromium, driven by Playwright in tests/browser.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// One browser with one page at a time. Every error of the page, and every request that leaves this machine, fails the
/// test: see [`Browser::assert_clean`].
pub(crate) struct Browser {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

/// How the page is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
}

/// A request that the page made.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) at_ms: f64,
    pub(crate) status: Option<u64>,
    pub(crate) body: Value,
}

impl Screen {
    pub(crate) const DESK: Self = Self { width: 1360, height: 900, dark: false };
    pub(crate) const DARK: Self = Self { dark: true, ..Self::DESK };
    pub(crate) const PHONE: Self = Self { width: 390, height: 844, dark: false };
}

impl Browser {
    pub(crate) fn start() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        assert!(
            folder.join("node_modules/playwright-core").exists(),
            "tests/browser has no node_modules: `make test` installs them, or `npm ci --prefix tests/browser`"
        );
        let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
        assert!(Path::new(&chromium).exists(), "no {chromium}: `make setup` installs Debian's package chromium");
        let mut child = Command::new("node")
            .arg(folder.join("browser.mjs"))
            .arg(chromium)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node can be run: `make setup` says what is missing");
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, to, from }
    }

    fn ask(&mut self, request: &Value) -> Value {
        let to = self.to.as_mut().expect("it is open");
        writeln!(to, "{request}").expect("the browser listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the browser answers");
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the browser said {line:?}"));
        assert!(answer.get("error").is_none(), "{request}: {}", answer["error"]);
        answer["value"].take()
    }

    pub(crate) fn open(&mut self, url: &str, screen: Screen) {
        let Screen { width, height, dark } = screen;
        let scheme = if dark { "dark" } else { "light" };
        self.ask(&json!({
            "command": "open", "url": url, "width": width, "height": height, "scheme": scheme, "scale": 1,
        }));
    }

    /// Waits until an expression is true in the page; gives its value.
    pub(crate) fn until(&mut self, expression: &str) -> Value {
        self.ask(&json!({"command": "until", "expression": expression}))
    }

    pub(crate) fn read(&mut self, expression: &str) -> Value {
        self.ask(&json!({"command": "read", "expression": expression}))
    }

    /// The text of an element.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let text = self.read(&format!("document.querySelector({}).innerText", json!(selector)));
        text.as_str().unwrap_or_else(|| panic!("{selector} has no text: {text}")).to_owned()
    }

    pub(crate) fn click(&mut self, selector: &str) {
        self.ask(&json!({"command": "click", "selector": selector}));
    }

    pub(crate) fn fill(&mut self, selector: &str, text: &str) {
        self.ask(&json!({"command": "fill", "selector": selector, "text": text}));
    }

    pub(crate) fn select(&mut self, selector: &str, value: &str) {
        self.ask(&json!({"command": "select", "selector": selector, "value": value}));
    }

    pub(crate) fn press(&mut self, key: &str) {
        self.ask(&json!({"command": "press", "key": key}));
    }

    /// Lets the page be for a while, where it is the passing of time that is looked at.
    pub(crate) fn leave_alone(&mut self, ms: u64) {
        self.ask(&json!({"command": "wait", "ms": ms}));
    }

    pub(crate) fn picture(&mut self, path: &Path, full: bool) {
        self.ask(&json!({"command": "picture", "path": path, "full": full}));
    }

    /// What the page has asked for since this was called last, in order.
    pub(crate) fn requests(&mut self) -> Vec<Asked> {
        let requests = self.ask(&json!({"command": "requests"}));
        let read = |request: &Value| {
            let url = request["url"].as_str().expect("an address");
            let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("the page asked for {url}"));
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let is_here = host.starts_with("127.0.0.1:") || host.starts_with("localhost:");
            assert!(is_here, "the page asked for {url}, which is not on this machine");
            Asked {
                path: format!("/{path}"),
                at_ms: request["at"].as_f64().expect("a time"),
                status: request["status"].as_u64(),
                body: request["body"].clone(),
            }
        };
        requests.as_array().expect("a list").iter().map(read).collect()
    }

    /// No error on the page's console or within, no failed request, and no request that left this machine.
    pub(crate) fn assert_clean(&mut self) -> Vec<Asked> {
        let errors = self.ask(&json!({"command": "errors"}));
        assert_eq!(errors, json!([]), "errors of the page");
        let requests = self.requests();
        for request in &requests {
            assert!(
                request.status.is_none_or(|status| status < 400),
                "{} was answered {:?}",
                request.path,
                request.status
            );
        }
        requests
    }

    /// The one kind of error that was provoked: the browser logs every answer of such a status. Forgets the requests.
    pub(crate) fn assert_error(&mut self, status: &str) {
        let errors = self.ask(&json!({"command": "errors"}));
        let errors = errors.as_array().expect("a list");
        let is_it = |error: &Value| error.as_str().is_some_and(|text| text.contains(&format!("status of {status}")));
        assert!(!errors.is_empty() && errors.iter().all(is_it), "errors other than {status}: {errors:?}");
        self.requests();
    }

    /// Forgets errors and requests so far: what follows is looked at for itself.
    pub(crate) fn forget(&mut self) {
        self.ask(&json!({"command": "errors"}));
        self.ask(&json!({"command": "requests"}));
    }

    /// No violation that axe-core calls serious or critical; and it did look.
    pub(crate) fn assert_accessible(&mut self, view: &str) {
        let found = self.ask(&json!({"command": "accessibility"}));
        assert!(found["passes"].as_u64().is_some_and(|passes| passes > 10), "{view}: axe-core looked at nothing");
        let is_serious = |violation: &&Value| matches!(violation["impact"].as_str(), Some("serious" | "critical"));
        let serious: Vec<&Value> = found["violations"].as_array().expect("a list").iter().filter(is_serious).collect();
        assert!(serious.is_empty(), "{view}: {}", serde_json::to_string_pretty(&serious).expect("JSON"));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The end of its input ends the browser, and then the process.
        drop(self.to.take());
        if std::thread::panicking() {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}
