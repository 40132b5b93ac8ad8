//! `top` on a terminal: drawn anew with each frame and whenever the window's size changes.
//!
//! What doesn't fit is left out: the courses of the rates first, then the keys are put below the
//! connections, and lists are cut. The terminal is given back however it ends: by the drop of
//! [`Screen`], by ratatui's panic hook, and for signals because they only set a flag.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style as Drawn};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame as Canvas};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::sample::{Frame, Sampler, Update};
use crate::arguments::Top;
use crate::failure::{Failure, NOT_MET, plain};
use crate::interrupt::Stopper;
use crate::output::Style;

/// How long a key is waited for before it looks for frames.
const PATIENCE: Duration = Duration::from_millis(50);

/// How many intervals the courses go back at most.
const COURSE_MAX: usize = 500;

/// Smaller windows show no courses, and narrower ones the keys below the connections.
const COURSE_WINDOW_MIN: u16 = 18;
const BESIDE_WIDTH_MIN: u16 = 90;

/// What is to be seen.
struct Picture {
    place: String,
    interval: Duration,
    is_coloured: bool,
    with_keys: bool,
    frame: Option<Frame>,
    /// Why there is nothing newer.
    lost: Option<String>,
    requests: VecDeque<u64>,
    events: VecDeque<u64>,
}

/// The terminal while it is ours.
struct Screen {
    terminal: DefaultTerminal,
    is_terminated: Arc<AtomicBool>,
    /// Whether signals do again what they do by default.
    is_left: Arc<AtomicBool>,
}

pub(super) fn run(
    sampler: &Sampler,
    arguments: &Top,
    style: Style,
    stopper: &Stopper,
) -> Result<(), Failure> {
    let mut picture = Picture {
        place: sampler.address(),
        interval: arguments.interval,
        is_coloured: style.is_coloured(),
        with_keys: !arguments.no_keys,
        frame: None,
        lost: None,
        requests: VecDeque::new(),
        events: VecDeque::new(),
    };
    let mut screen = Screen::take().map_err(failed)?;
    let mut left = arguments.count;
    let mut is_new = true;
    while !stopper.is_stopped() && !screen.is_terminated.load(Ordering::Relaxed) {
        while let Some(update) = sampler.try_next() {
            is_new = true;
            let counts = matches!(&update, Update::Frame(frame) if frame.rates.is_some());
            picture.take(update)?;
            if counts && let Some(left) = &mut left {
                *left -= 1;
            }
        }
        if is_new {
            screen
                .terminal
                .draw(|canvas| picture.draw(canvas))
                .map_err(failed)?;
        }
        if left == Some(0) {
            break;
        }
        is_new = false;
        if event::poll(PATIENCE).map_err(failed)? {
            match event::read().map_err(failed)? {
                Event::Key(key) if is_end(&key) => break,
                // A window of another size, among others.
                _ => is_new = true,
            }
        }
    }
    let is_terminated = screen.is_terminated.load(Ordering::Relaxed);
    drop(screen);
    if is_terminated {
        return Err(Failure::new(NOT_MET, "terminated"));
    }
    Ok(())
}

fn is_end(key: &KeyEvent) -> bool {
    let is_interrupt =
        key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    let is_quit = matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc);
    key.kind == KeyEventKind::Press && (is_interrupt || is_quit)
}

fn failed(error: io::Error) -> Failure {
    Failure::new(
        NOT_MET,
        format!("cannot use the terminal: {}", plain(&error)),
    )
}

impl Screen {
    fn take() -> io::Result<Screen> {
        let is_terminated = Arc::new(AtomicBool::new(false));
        let is_left = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&is_left))?;
            signal_hook::flag::register(signal, Arc::clone(&is_terminated))?;
        }
        Ok(Screen {
            terminal: ratatui::try_init()?,
            is_terminated,
            is_left,
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where it fails the terminal is gone.
        drop(ratatui::try_restore());
        self.is_left.store(true, Ordering::Relaxed);
    }
}

impl Picture {
    fn take(&mut self, update: Update) -> Result<(), Failure> {
        match update {
            Update::Frame(frame) => {
                for (course, name) in [
                    (&mut self.requests, "requests"),
                    (&mut self.events, "events"),
                ] {
                    let rate = frame.rate(name).unwrap_or(0.0);
                    course.push_front(whole(rate));
                    course.truncate(COURSE_MAX);
                }
                self.frame = Some(frame);
                self.lost = None;
            }
            Update::Lost(reason) => self.lost = Some(reason),
            Update::End(failure) => return Err(failure),
        }
        Ok(())
    }

    fn draw(&self, canvas: &mut Canvas<'_>) {
        let window = canvas.area();
        let courses = if window.height >= COURSE_WINDOW_MIN {
            5
        } else {
            0
        };
        let [head, course, lists, foot] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Length(courses),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(window);
        canvas.render_widget(Paragraph::new(self.foot()), foot);
        let Some(frame) = &self.frame else {
            return;
        };
        canvas.render_widget(Paragraph::new(self.head(frame)), head);
        if courses > 0 {
            self.draw_courses(canvas, course);
        }
        if !self.with_keys {
            self.draw_connections(canvas, lists, frame);
            return;
        }
        let halves = if window.width >= BESIDE_WIDTH_MIN {
            Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)])
        } else {
            Layout::vertical([Constraint::Percentage(50), Constraint::Percentage(50)])
        };
        let [connections, keys] = halves.areas(lists);
        self.draw_connections(canvas, connections, frame);
        self.draw_keys(canvas, keys, frame);
    }

    fn head(&self, frame: &Frame) -> Vec<Line<'static>> {
        let bold = Drawn::new().add_modifier(Modifier::BOLD);
        let rate = |name| frame.rate(name).map_or("-".to_owned(), short);
        let now = |name| frame.now(name);
        let uptime = Duration::from_millis(now("uptime_ms"));
        let mut first = vec![
            Span::styled(frame.server.clone(), bold),
            Span::raw(format!(
                " at {}, up {}, revision {}",
                self.place,
                time(uptime),
                now("rev")
            )),
        ];
        if now("read_only") > 0 {
            first.push(Span::raw("  "));
            first.push(Span::styled("some writes are refused", self.alarm()));
        }
        let exactly = |count: u64, one: &str, many: &str| {
            format!("{count} {}", if count == 1 { one } else { many })
        };
        vec![
            Line::from(first),
            Line::from(format!(
                "{}, {}, {} ({}B)",
                exactly(now("clients"), "connection", "connections"),
                exactly(now("subscriptions"), "subscription", "subscriptions"),
                exactly(now("keys"), "key", "keys"),
                short(float(now("bytes"))),
            )),
            Line::from(vec![
                Span::styled(format!("requests {}/s", rate("requests")), bold),
                Span::raw(format!(
                    "  puts {}  gets {}  deletes {}  refused {}",
                    rate("puts"),
                    rate("gets"),
                    rate("deletes"),
                    rate("errors")
                )),
            ]),
            Line::from(vec![
                Span::styled(format!("events {}/s", rate("events")), bold),
                Span::raw(format!(
                    "  spared {}  journal {}B/s, {} syncs/s",
                    rate("coalesced"),
                    rate("journal_written_bytes"),
                    rate("journal_syncs")
                )),
            ]),
        ]
    }

    fn draw_courses(&self, canvas: &mut Canvas<'_>, area: Rect) {
        let halves = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]);
        let areas: [Rect; 2] = halves.areas(area);
        let courses = [
            (&self.requests, "requests/s", Color::Green),
            (&self.events, "events/s", Color::Cyan),
        ];
        for (area, (course, name, colour)) in areas.into_iter().zip(courses) {
            let highest = course.iter().max().copied().unwrap_or(0);
            let title = format!(" {name}, at most {} ", short(float(highest)));
            // The newest stands at the right.
            let sparkline = Sparkline::default()
                .data(course.iter().copied())
                .direction(ratatui::widgets::RenderDirection::RightToLeft)
                .style(self.coloured(colour))
                .block(Block::new().borders(Borders::ALL).title(title));
            canvas.render_widget(sparkline, area);
        }
    }

    fn draw_connections(&self, canvas: &mut Canvas<'_>, area: Rect, frame: &Frame) {
        let rows = frame.connections.iter().map(|connection| {
            let lag = Cell::from(connection.lag.to_string());
            Row::new([
                Cell::from(connection.name.clone()),
                Cell::from(connection.process.clone()),
                Cell::from(connection.subscriptions.to_string()),
                match connection.lag {
                    0 => lag,
                    _ => lag.style(self.alarm()),
                },
            ])
        });
        let widths = [
            Constraint::Fill(2),
            Constraint::Fill(1),
            Constraint::Length(4),
            Constraint::Length(10),
        ];
        let table = Table::new(rows, widths)
            .header(self.heading(["NAME", "PROCESS", "SUBS", "LAG"]))
            .block(Block::new().borders(Borders::ALL).title(" connections "));
        canvas.render_widget(table, area);
    }

    fn draw_keys(&self, canvas: &mut Canvas<'_>, area: Rect, frame: &Frame) {
        let key = self.coloured(Color::Cyan);
        let rows = frame.keys.iter().map(|(name, rate)| {
            Row::new([
                Cell::from(name.clone()).style(key),
                Cell::from(short(*rate)),
            ])
        });
        let table = Table::new(rows, [Constraint::Fill(1), Constraint::Length(9)])
            .header(self.heading(["KEY", "CHANGES/S"]))
            .block(Block::new().borders(Borders::ALL).title(" hottest keys "));
        canvas.render_widget(table, area);
    }

    fn heading<const N: usize>(&self, names: [&'static str; N]) -> Row<'static> {
        Row::new(names).style(Drawn::new().add_modifier(Modifier::BOLD))
    }

    fn foot(&self) -> Line<'_> {
        match &self.lost {
            Some(reason) => Line::from(Span::styled(reason.as_str(), self.alarm())),
            None => Line::from(format!("every {}; q quits", time(self.interval))),
        }
    }

    fn alarm(&self) -> Drawn {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn coloured(&self, colour: Color) -> Drawn {
        if self.is_coloured {
            Drawn::new().fg(colour)
        } else {
            Drawn::new()
        }
    }
}

/// A number with as many digits as one can read at a glance.
fn short(number: f64) -> String {
    match number {
        0.0 => "0".into(),
        small if small < 10.0 => format!("{small:.1}"),
        medium if medium < 10_000.0 => format!("{medium:.0}"),
        large if large < 10_000_000.0 => format!("{:.1}k", large / 1e3),
        large if large < 10_000_000_000.0 => format!("{:.1}M", large / 1e6),
        huge => format!("{:.1}G", huge / 1e9),
    }
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if duration.subsec_millis() > 0 && seconds < 10 => {
            format!("{:.1} s", duration.as_secs_f64())
        }
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a number that is shown with a few digits"
)]
fn float(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the height of a column; a cast keeps to the limits"
)]
fn whole(rate: f64) -> u64 {
    rate.ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let check = |number: f64, expected: &str| assert_eq!(short(number), expected);
        check(0.0, "0");
        check(0.25, "0.2");
        check(9.94, "9.9");
        check(1234.4, "1234");
        check(12_345.0, "12.3k");
        check(12_345_678.0, "12.3M");
        check(12_345_678_901.0, "12.3G");
    }

    fn picture(frame: Option<Frame>) -> Picture {
        Picture {
            place: "/run/nkv.sock".into(),
            interval: Duration::from_secs(1),
            is_coloured: true,
            with_keys: true,
            frame,
            lost: None,
            requests: VecDeque::from([8, 4, 2]),
            events: VecDeque::from([1]),
        }
    }

    fn drawn(picture: &Picture, width: u16, height: u16) -> String {
        let backend = ratatui::backend::TestBackend::new(width, height);
        let mut terminal = ratatui::Terminal::new(backend).unwrap();
        terminal.draw(|canvas| picture.draw(canvas)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn every_window_shows_what_fits() {
        let picture = picture(Some(Frame::example()));
        for width in [1, 3, 20, 50, 80, 100, 300] {
            for height in [1, 2, 4, 5, 8, 17, 18, 24, 100] {
                drawn(&picture, width, height);
            }
        }
        let check = |width, height, shown: &[&str], hidden: &[&str]| {
            let text = drawn(&picture, width, height);
            for word in shown {
                assert!(text.contains(word), "{word} in {width}x{height}:\n{text}");
            }
            for word in hidden {
                assert!(!text.contains(word), "{word} in {width}x{height}:\n{text}");
            }
        };
        let always = ["nkv/9.9.9 at /run/nkv.sock", "requests 12/s", "q quits"];
        check(100, 24, &always, &[]);
        let tables = ["NAME", "thermostat", "77", "hot.key", "CHANGES/S"];
        check(100, 24, &tables, &[]);
        check(60, 24, &tables, &[]);
        check(60, 6, &always, &["thermostat"]);
        check(100, 24, &["requests/s, at most 8"], &[]);
        check(100, 12, &tables, &["at most"]);
    }

    #[test]
    fn a_lost_connection_is_told_below_what_was_seen_last() {
        let mut picture = picture(Some(Frame::example()));
        picture.take(Update::Lost("it has gone".into())).unwrap();
        let text = drawn(&picture, 80, 24);
        assert!(
            text.contains("it has gone") && text.contains("thermostat"),
            "{text}"
        );
        assert!(!text.contains("q quits"), "{text}");
    }

    #[test]
    fn times_are_short() {
        let check = |ms: u64, expected: &str| {
            assert_eq!(time(Duration::from_millis(ms)), expected);
        };
        check(500, "0.5 s");
        check(1000, "1 s");
        check(59_999, "59 s");
        check(60_000, "1 min");
        check(3_660_000, "1 h 1 min");
        check(90_000_000, "1 d 1 h");
    }
}
