//! `launcher top`: a run in a terminal while it goes on, for people who came over ssh.
//!
//! It changes nothing of the run but what a key asks for, and leaves the terminal as it was, whatever happens. What is
//! known is `view`, how it is drawn is `frame`; here is where both come from and the keys.

mod frame;
mod series;
mod view;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use began_credentials::Arguments;
use began_proto::v1::StatusResponse;
use began_proto::v1::watch_event::Body;
use began_record::{Journal, RunDir};
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::view::View;
use crate::cli::TopArgs;
use crate::credentials::contact;
use crate::inspect::{self, Target};
use crate::watch::{self, Contact};

/// How often the coordinator is asked where its trainers are.
const ASK: Duration = Duration::from_secs(1);
/// How often, at most, the screen is drawn.
const REDRAW: Duration = Duration::from_millis(200);
/// How long the keyboard is listened to before it is looked whether anyone still wants to know.
const KEYS: Duration = Duration::from_millis(100);
/// How long `--once` waits for the first answer.
const FIRST: Duration = Duration::from_secs(15);
/// The size of a picture that goes to no terminal, in characters.
const PLAIN: (u16, u16) = (100, 40);

/// What comes in besides keys.
enum News {
    Status(Box<StatusResponse>),
    Told(Body),
    /// No coordinator answers, and why.
    Silent(String),
    /// What became of something asked for.
    Answer(String),
}

/// `launcher top RUN|ADDR`.
///
/// # Errors
/// If the target is neither a run nor an address, or, with an address, if no coordinator answers there at the start.
pub async fn top(args: TopArgs) -> Result<u8> {
    let target = Target::of(&args.run, &args.credentials)?;
    let mut view = View::new(&args.run);
    match &target {
        Target::Run(path) => {
            let run = RunDir::open(path)?;
            view.configured(&run.config()?);
            if run.journal().exists() {
                let journal = Journal::read(&run)?;
                view.recorded(&journal.steps()?, &journal.events()?);
            }
        }
        // An address at which nobody is is a mistake to be told of before the screen is taken.
        Target::Coordinator(to) => view.status(watch::status(to).await?),
    }
    let (teller, mut news) = mpsc::unbounded_channel();
    let asking = tokio::spawn(ask(target.clone(), args.credentials.clone(), teller.clone()));
    let code = if args.once || !std::io::stdout().is_terminal() {
        once(&mut view, &mut news).await
    } else {
        let mut terminal =
            ratatui::try_init().context("this terminal cannot be drawn on; --once prints one picture")?;
        let outcome = live(&mut terminal, &mut view, &mut news, (&target, &args.credentials), &teller).await;
        ratatui::restore();
        outcome
    };
    asking.abort();
    code
}

/// Asks where the run stands, again and again, and follows what is told meanwhile.
async fn ask(target: Target, credentials: Arguments, teller: mpsc::UnboundedSender<News>) {
    let mut ticks = interval(ASK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut followed: Option<(String, tokio::task::JoinHandle<()>)> = None;
    loop {
        ticks.tick().await;
        let answer = match &target {
            Target::Coordinator(to) => watch::status(to).await.map(|status| Some((to.clone(), status))),
            Target::Run(path) => of_folder(path, &credentials).await,
        };
        let told = match answer {
            Ok(Some((to, status))) => {
                if followed.as_ref().is_none_or(|(at, task)| *at != to.address || task.is_finished()) {
                    if let Some((_, task)) = followed.take() {
                        task.abort();
                    }
                    followed = Some((to.address.clone(), tokio::spawn(follow(to, teller.clone()))));
                }
                News::Status(Box::new(status))
            }
            Ok(None) => News::Silent("no coordinator of this run is there".into()),
            Err(error) => News::Silent(format!("{error:#}")),
        };
        if teller.send(told).is_err() {
            return;
        }
    }
}

async fn of_folder(path: &Path, credentials: &Arguments) -> Result<Option<(Contact, StatusResponse)>> {
    let run = RunDir::open(path)?;
    let alive = inspect::alive(&run, credentials).await?;
    alive.map(|(announced, status)| Ok((contact(&announced, credentials)?, status))).transpose()
}

async fn follow(to: Contact, teller: mpsc::UnboundedSender<News>) {
    let (seen, mut told) = mpsc::unbounded_channel();
    let following = watch::follow(to, seen);
    let passing_on = async {
        while let Some(body) = told.recv().await {
            if teller.send(News::Told(body)).is_err() {
                return;
            }
        }
    };
    tokio::join!(following, passing_on);
}

/// The coordinator that a run says it has.
fn announced(path: &Path, credentials: &Arguments) -> Result<Contact> {
    let announced = RunDir::open(path)?.announcement()?;
    contact(&announced.context("the run has no coordinator")?, credentials)
}

fn take(view: &mut View, news: News) {
    match news {
        News::Status(status) => view.status(*status),
        News::Told(Body::Progress(progress)) => view.progress(progress),
        News::Told(Body::Event(event)) => view.event(event),
        News::Told(Body::Ended(ended)) => view.ended(&ended),
        News::Silent(why) => view.silent(why),
        News::Answer(text) => view.answer = Some(text),
    }
}

/// One picture, as text.
async fn once(view: &mut View, news: &mut mpsc::UnboundedReceiver<News>) -> Result<u8> {
    match timeout(FIRST, news.recv()).await {
        Ok(Some(first)) => take(view, first),
        _ => view.silent(format!("no answer within {} s", FIRST.as_secs())),
    }
    let (width, height) = PLAIN;
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|area| frame::draw(area, view))?;
    let mut stdout = std::io::stdout();
    for row in terminal.backend().buffer().content().chunks(usize::from(width)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        writeln!(stdout, "{}", line.trim_end())?;
    }
    Ok(0)
}

/// The screen, until a key ends it.
async fn live(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    news: &mut mpsc::UnboundedReceiver<News>,
    whom: (&Target, &Arguments),
    teller: &mpsc::UnboundedSender<News>,
) -> Result<u8> {
    let (pressed, mut keys) = mpsc::unbounded_channel();
    // Reading keys blocks; the thread ends soon after nobody listens any more.
    std::thread::spawn(move || {
        while !pressed.is_closed() {
            match event::poll(KEYS) {
                Ok(false) => {}
                Ok(true) => {
                    let Ok(key) = event::read() else { return };
                    if pressed.send(key).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(told) = news.recv() => take(view, told),
            key = keys.recv() => match key {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(0),
                        KeyCode::Char('c') if control => return Ok(0),
                        KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
                        KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
                        KeyCode::PageDown => view.scroll(10),
                        KeyCode::PageUp => view.scroll(-10),
                        KeyCode::Char('l') => view.logarithmic = !view.logarithmic,
                        KeyCode::Char('C') => request(whom, true, teller),
                        KeyCode::Char('S') => request(whom, false, teller),
                        _ => {}
                    }
                }
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(0),
            },
            _ = redraw.tick() => {
                terminal.draw(|area| frame::draw(area, view)).context("the terminal cannot be drawn on")?;
            }
        }
    }
}

/// Asks for a checkpoint, or for samples, and says what became of it.
fn request((target, credentials): (&Target, &Arguments), checkpoint: bool, teller: &mpsc::UnboundedSender<News>) {
    let what = if checkpoint { "a checkpoint" } else { "samples" };
    let to = match target {
        Target::Coordinator(to) => Ok(to.clone()),
        Target::Run(path) => announced(path, credentials),
    };
    let to = match to {
        Ok(to) => to,
        Err(error) => {
            let _ = teller.send(News::Answer(format!("{what}: {error:#}")));
            return;
        }
    };
    let teller = teller.clone();
    tokio::spawn(async move {
        let reason = "a key in launcher top";
        let answer = match checkpoint {
            true => watch::ask_for_checkpoint(&to, reason).await,
            false => watch::ask_for_samples(&to, reason).await,
        };
        let text = match answer {
            Ok(step) => format!("{what} will come after step {step}"),
            Err(error) => format!("{what}: {error:#}"),
        };
        let _ = teller.send(News::Answer(text));
    });
}
