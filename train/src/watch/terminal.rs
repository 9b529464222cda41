//! Frame after frame in a terminal.

use std::io;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::Watched;
use super::frame::Against;
use crate::error::Error;

/// What a key asks for.
enum Asked {
    Quit,
    OtherAxis,
    Nothing,
}

/// Shows `watched` until q, Esc or Ctrl-C; t changes between steps and time. The terminal is left as it was found, after a
/// panic too.
pub(super) fn show(watched: &mut Watched, interval: Duration) -> Result<(), Error> {
    let refuse = |source| Error::Terminal { source };
    let mut terminal = ratatui::try_init().map_err(refuse)?;
    let shown = (|| {
        let mut against = Against::Steps;
        loop {
            let drawn = Instant::now();
            watched.refresh()?;
            terminal
                .draw(|frame| frame.render_widget(watched.frame(against), frame.area()))
                .map_err(refuse)?;
            match asked(drawn + interval).map_err(refuse)? {
                Asked::Quit => return Ok(()),
                Asked::OtherAxis if against == Against::Steps => against = Against::Time,
                Asked::OtherAxis => against = Against::Steps,
                Asked::Nothing => {}
            }
        }
    })();
    ratatui::try_restore().map_err(refuse)?;
    shown
}

/// Waits until something is asked for, the window changes its size, or the time comes.
fn asked(until: Instant) -> io::Result<Asked> {
    while event::poll(until.saturating_duration_since(Instant::now()))? {
        match event::read()? {
            Event::Resize(..) => return Ok(Asked::Nothing),
            Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(Asked::Quit),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Ok(Asked::Quit);
                }
                KeyCode::Char('t') => return Ok(Asked::OtherAxis),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(Asked::Nothing)
}
