//! Who listens to spans: their names, and what was recorded of each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Id, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};

/// A span by its name, with its fields as text.
#[derive(Clone, Default, Debug)]
pub struct Heard {
    pub name: String,
    pub fields: BTreeMap<String, String>,
}

/// Hears everything on the threads that it is given to.
#[derive(Clone, Default)]
pub struct Listener(Arc<Mutex<Vec<Heard>>>);

impl Listener {
    /// What `run` tells on this thread, in the order in which spans began.
    pub fn heard(run: impl FnOnce()) -> Vec<Heard> {
        let listener = Listener::default();
        tracing::subscriber::with_default(listener.clone(), run);
        let heard = listener.0.lock().unwrap();
        heard.clone()
    }
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut all = self.0.lock().unwrap();
        let mut heard = Heard { name: span.metadata().name().to_owned(), ..Heard::default() };
        span.record(&mut Fields(&mut heard.fields));
        all.push(heard);
        Id::from_u64(all.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut all = self.0.lock().unwrap();
        values.record(&mut Fields(&mut all[span.into_u64() as usize - 1].fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
