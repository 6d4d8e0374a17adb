//! What the bench is doing, on stderr: a line that moves on a terminal, otherwise one line every two seconds.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::Instant;

const LINE_EVERY: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(200);

/// Ends when it is dropped.
pub(crate) struct Progress {
    state: Arc<Mutex<State>>,
    bar: Option<ProgressBar>,
    /// Dropping it ends the task that writes lines.
    _lines: JoinSet<()>,
}

struct State {
    text: String,
    began: Instant,
}

impl State {
    fn line(&self) -> String {
        format!("[{:4.0} s] {}", self.began.elapsed().as_secs_f64(), self.text)
    }
}

impl Progress {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State { text: String::new(), began: Instant::now() }));
        let mut lines = JoinSet::new();
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is valid");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(TICK);
            return Self { state, bar: Some(bar), _lines: lines };
        }
        lines.spawn(write_lines(Arc::clone(&state)));
        Self { state, bar: None, _lines: lines }
    }

    /// Replaces what is shown.
    pub(crate) fn show(&self, text: impl Into<String>) {
        let mut state = self.state();
        state.text = text.into();
        if let Some(bar) = &self.bar {
            bar.set_message(state.line());
        }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// The result, on stdout.
    #[expect(clippy::print_stdout, reason = "the table is what the bench is for")]
    pub(crate) fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write_lines(state: Arc<Mutex<State>>) {
    let mut every = tokio::time::interval(LINE_EVERY);
    every.tick().await;
    loop {
        every.tick().await;
        let line = state.lock().unwrap_or_else(PoisonError::into_inner).line();
        eprintln!("{line}");
    }
}
