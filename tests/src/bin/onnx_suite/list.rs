//! The committed list of what cases end as: a line each, sorted: `<kind>/<case> <status> <reason>`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, anyhow};

use crate::outcome::{Outcome, Status};

#[derive(Default)]
pub struct List(BTreeMap<String, (Status, String)>);

impl List {
    /// Of a file that is not there: empty.
    pub fn read(path: &Path) -> Result<List> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(List::default()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut all = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let mut words = line.splitn(3, ' ');
            let parts = words.next().zip(words.next().and_then(Status::parse));
            let (name, status) = parts
                .ok_or_else(|| anyhow!("{} line {}: '{line}' is no case", path.display(), number + 1))?;
            all.insert(name.to_string(), (status, words.next().unwrap_or("").to_string()));
        }
        Ok(List(all))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let line = |(name, (status, reason)): (&String, &(Status, String))| {
            format!("{}\n", format!("{name} {status} {reason}").trim_end())
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, self.0.iter().map(line).collect::<String>())
            .with_context(|| path.display().to_string())
    }

    pub fn status(&self, case: &str) -> Option<Status> {
        self.0.get(case).map(|it| it.0)
    }

    /// Takes these outcomes; where they are of `all` cases, nothing else stays.
    pub fn update(&mut self, outcomes: &BTreeMap<String, Outcome>, all: bool) {
        if all {
            self.0.clear();
        }
        for (name, it) in outcomes {
            self.0.insert(name.clone(), (it.status, it.reason.clone()));
        }
    }

    /// A line for each case whose status is another.
    pub fn changes(&self, outcomes: &BTreeMap<String, Outcome>, all: bool) -> Vec<String> {
        let mut changes = Vec::new();
        for (name, now) in outcomes {
            let was = self.0.get(name).map(|it| it.0);
            if was != Some(now.status) {
                let was = was.map_or("not listed", Status::name);
                let said = [now.reason.as_str(), now.detail.as_str()].join(" ");
                changes.push(format!("{name}\t{was} -> {}\t{}", now.status, said.trim()));
            }
        }
        let gone = self.0.keys().filter(|it| all && !outcomes.contains_key(*it));
        changes.extend(gone.map(|it| format!("{it}\tis not there")));
        changes
    }
}
