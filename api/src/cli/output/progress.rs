//! How far work has come, on stderr: a bar on a terminal, otherwise one line every two seconds, so that the log of a
//! job in a pipeline stays readable and still shows that something happens.

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::format::{bytes, count, duration};

const LINE_EVERY: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(120);
/// Before this, how long the rest takes would be a guess.
const ESTIMATE_AFTER: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Count,
    Bytes,
}

/// Ends when it is dropped; what it showed last stays only after `finish`.
pub struct Progress {
    state: Arc<Mutex<State>>,
    bar: Option<ProgressBar>,
    /// Dropping it ends the task that writes lines.
    _lines: JoinSet<()>,
}

struct State {
    title: String,
    message: String,
    position: u64,
    /// 0: nobody knows how much there is to do.
    length: u64,
    unit: Unit,
    began: Instant,
    lines_written: bool,
}

impl Progress {
    pub(super) fn start(terminal: bool, title: &str, length: u64, unit: Unit) -> Self {
        let state = Arc::new(Mutex::new(State {
            title: title.to_owned(),
            message: String::new(),
            position: 0,
            length,
            unit,
            began: Instant::now(),
            lines_written: false,
        }));
        let mut lines = JoinSet::new();
        let bar = terminal.then(|| new_bar(length));
        if bar.is_none() {
            lines.spawn(write_lines(Arc::clone(&state)));
        }
        Self { state, bar, _lines: lines }
    }

    /// The next part of the work, with a clock and a length of its own. A length of 0 is an unknown one.
    pub fn restart(&self, title: &str, length: u64) {
        self.change(|state| {
            title.clone_into(&mut state.title);
            state.message.clear();
            state.position = 0;
            state.length = length;
            state.began = Instant::now();
        });
        if let Some(bar) = &self.bar {
            bar.set_style(bar_style(length));
        }
    }

    pub fn set_length(&self, length: u64) {
        self.change(|state| state.length = length);
    }

    pub fn set_position(&self, position: u64) {
        self.change(|state| state.position = position);
    }

    pub fn set_message(&self, message: &str) {
        self.change(|state| message.clone_into(&mut state.message));
    }

    /// Time since the beginning of the present part.
    pub fn elapsed(&self) -> Duration {
        locked(&self.state).began.elapsed()
    }

    /// The work is done.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish();
            return;
        }
        let state = locked(&self.state);
        if state.lines_written {
            write_line(&state.text());
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = locked(&self.state);
        change(&mut state);
        if let Some(bar) = &self.bar {
            bar.set_length(state.length);
            bar.set_position(state.position);
            bar.set_message(state.text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}

impl State {
    fn text(&self) -> String {
        let shown = |number: u64| match self.unit {
            Unit::Count => count(number),
            Unit::Bytes => bytes(number),
        };
        let mut text = self.title.clone();
        if self.length > 0 {
            let percent = u128::from(self.position) * 100 / u128::from(self.length);
            text.push_str(&format!(": {percent} %, {} of {}", shown(self.position), shown(self.length)));
        }
        for part in [Some(self.message.clone()), self.left()].into_iter().flatten().filter(|part| !part.is_empty()) {
            text.push_str(", ");
            text.push_str(&part);
        }
        text
    }

    /// At the speed so far.
    fn left(&self) -> Option<String> {
        let elapsed = self.began.elapsed();
        if self.position == 0 || self.position >= self.length || elapsed < ESTIMATE_AFTER {
            return None;
        }
        let to_do = u128::from(self.length - self.position);
        let seconds = elapsed.as_millis() * to_do / u128::from(self.position) / 1000;
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX).max(1));
        Some(format!("about {} left", duration(left)))
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_lines(state: Arc<Mutex<State>>) {
    let mut ticks = tokio::time::interval_at(Instant::now() + LINE_EVERY, LINE_EVERY);
    loop {
        ticks.tick().await;
        let mut state = locked(&state);
        state.lines_written = true;
        write_line(&state.text());
    }
}

fn write_line(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

fn new_bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(bar_style(length));
    bar.enable_steady_tick(TICK);
    bar
}

fn bar_style(length: u64) -> ProgressStyle {
    let template = if length > 0 { "{bar:30} {wide_msg}" } else { "{spinner} {wide_msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("█▉▊▋▌▍▎▏ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_text_has_share_numbers_message_and_the_time_left() {
        let progress = Progress::start(false, "messages", 2000, Unit::Count);
        assert_eq!(locked(&progress.state).text(), "messages: 0 %, 0 of 2,000");
        tokio::time::advance(Duration::from_secs(30)).await;
        progress.set_position(500);
        progress.set_message("20 failed");
        let expected = "messages: 25 %, 500 of 2,000, 20 failed, about 1 min 30 s left";
        assert_eq!(locked(&progress.state).text(), expected);
        progress.set_position(2000);
        assert_eq!(locked(&progress.state).text(), "messages: 100 %, 2,000 of 2,000, 20 failed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_part_begins_anew_and_may_have_no_length() {
        let progress = Progress::start(false, "reading", 4096, Unit::Bytes);
        progress.set_position(1024);
        assert_eq!(locked(&progress.state).text(), "reading: 25 %, 1.0 KiB of 4.0 KiB");
        progress.restart("storing", 0);
        progress.set_message("7 rows");
        assert_eq!(locked(&progress.state).text(), "storing, 7 rows");
    }
}
