//! Processes that run cases one by one. One that dies is blamed on the case it was at; another takes its place.
//!
//! A child says `ready` when its device is open, then answers each line, the name of a case, with one of JSON.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use wgfuse::{Device, Options};
use wgfuse_tests::device;

use crate::{Args, Place, case, outcome::Outcome};

const TIME: Duration = Duration::from_secs(10);
/// With the slow evaluators.
const STAGES: Duration = Duration::from_secs(100);
const START: Duration = Duration::from_secs(60);
/// How often a child's memory is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// What each case ended as.
pub fn run(args: &Args, cases: Vec<String>) -> Result<BTreeMap<String, Outcome>> {
    let count = cases.len();
    let queue = Mutex::new(cases.into_iter());
    let (done, results) = mpsc::channel();
    let mut all = BTreeMap::new();
    thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, count) {
            let (done, queue) = (done.clone(), &queue);
            scope.spawn(move || {
                let mut child = None;
                loop {
                    let Some(case) = queue.lock().expect("nothing panics inside").next() else { break };
                    let outcome = child_at(args, &mut child, &case);
                    let stop = outcome.is_err();
                    if done.send((case, outcome)).is_err() || stop {
                        break;
                    }
                }
            });
        }
        drop(done);
        let terminal = std::io::stderr().is_terminal();
        let mut fault = None;
        for (case, outcome) in results {
            match outcome {
                Ok(outcome) => drop(all.insert(case, outcome)),
                Err(error) => fault = Some(error),
            }
            if terminal {
                eprint!("\r{} of {count}", all.len());
            }
        }
        if terminal {
            eprint!("\r                    \r");
        }
        fault.map_or(Ok(all), Err)
    })
}

/// `Err` where no process can be had; then there is nothing to blame a case for.
fn child_at(args: &Args, child: &mut Option<Running>, case: &str) -> Result<Outcome> {
    let running = match child {
        Some(running) => running,
        None => child.insert(Running::start(args)?),
    };
    let start = Instant::now();
    let answer = running.ask(case);
    let mut outcome = match answer {
        Ok(line) => Outcome::from_json(&line)?,
        Err(outcome) => {
            *child = None;
            outcome
        }
    };
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

struct Running {
    child: Child,
    requests: ChildStdin,
    /// Closed when the child is gone.
    answers: Receiver<String>,
    /// MiB that it may have.
    memory: u64,
    /// That a case may take.
    time: Duration,
}

impl Running {
    fn start(args: &Args) -> Result<Running> {
        let own = std::env::current_exe()?;
        let mut child = Command::new(own)
            .args(std::env::args_os().skip(1))
            .arg("--child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if args.verbose { Stdio::inherit() } else { Stdio::null() })
            .spawn()?;
        let (requests, out) =
            (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let running = Running {
            child,
            requests,
            answers,
            memory: args.memory,
            time: if args.stages { STAGES } else { TIME },
        };
        match running.answers.recv_timeout(START).as_deref() {
            Ok("ready") => Ok(running),
            Ok(why) => bail!("{why}"),
            Err(_) => bail!("the process that runs cases does not start; --verbose shows what it says"),
        }
    }

    /// The answer, or what the child died of.
    fn ask(&mut self, case: &str) -> Result<String, Outcome> {
        let start = Instant::now();
        // Where the child is gone, its answers are too.
        let _ = writeln!(self.requests, "{case}");
        loop {
            match self.answers.recv_timeout(GLANCE) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => {
                    let how = self.child.wait().map_or_else(|it| it.to_string(), |it| it.to_string());
                    return Err(Outcome::crash("the process died", how));
                }
                Err(RecvTimeoutError::Timeout) if start.elapsed() > self.time => {
                    return Err(Outcome::crash(format!("takes more than {} s", self.time.as_secs()), ""));
                }
                Err(RecvTimeoutError::Timeout)
                    if memory(self.child.id()).is_some_and(|it| it >> 20 > self.memory) =>
                {
                    return Err(Outcome::crash(format!("takes more than {} MiB of memory", self.memory), ""));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of memory that a process has, where the system says.
fn memory(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// The other end.
pub fn child(args: &Args) -> Result<()> {
    let device = match open(args) {
        Ok(device) => device,
        Err(why) => {
            println!("{}", format!("{why:#}").replace('\n', " "));
            return Ok(());
        }
    };
    // Plans of other builds say nothing of this one.
    let device = device.cache_in(None);
    let options = Options { fallback: args.fallback(), ..device::options() };
    println!("ready");
    for case in std::io::stdin().lines() {
        let case = case?;
        let folder = args.folder.join(&case);
        let done = catch_unwind(AssertUnwindSafe(|| {
            if let Some((_, how)) =
                args.plant.as_ref().and_then(|it| it.split_once('=')).filter(|it| it.0 == case)
            {
                planted(how);
            }
            case::run(&folder, &device, &options, args.stages)
        }));
        let outcome = done.unwrap_or_else(|panic| {
            let text = (panic.downcast_ref::<String>().cloned())
                .or_else(|| panic.downcast_ref::<&str>().map(|it| it.to_string()));
            Outcome::crash("a panic", text.unwrap_or_default())
        });
        println!("{}", outcome.to_json(&case));
    }
    Ok(())
}

fn open(args: &Args) -> Result<Device> {
    match args.device {
        Place::Cpu => Ok(Device::cpu()),
        Place::Gpu => catch_unwind(device::gpu).map_err(|it| {
            anyhow!("{}", it.downcast_ref::<String>().map_or("no GPU was found", String::as_str))
        }),
    }
}

fn planted(how: &str) {
    #[allow(unconditional_recursion)]
    fn overflow(depth: u64) -> u64 {
        std::hint::black_box(depth + overflow(std::hint::black_box(depth + 1)))
    }
    match how {
        "abort" => std::process::abort(),
        "overflow" => drop(std::hint::black_box(overflow(0))),
        "hang" => thread::sleep(Duration::from_secs(1000)),
        "panic" => panic!("planted"),
        "memory" => {
            let mut held = Vec::new();
            loop {
                held.push(vec![1u8; 64 << 20]);
                thread::sleep(Duration::from_millis(1));
            }
        }
        _ => {}
    }
}
