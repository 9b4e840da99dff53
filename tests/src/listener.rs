//! Who listens: to spans, their names and what was recorded of each; and to warnings.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Id, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, Registry},
};

/// A span by its name, with its fields as text.
#[derive(Clone, Default, Debug)]
pub struct Heard {
    pub name: String,
    pub fields: BTreeMap<String, String>,
}

/// Hears everything on the threads that it is given to.
#[derive(Clone, Default)]
pub struct Listener(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    heard: Vec<Heard>,
    /// Positions in `heard`.
    places: HashMap<Id, usize>,
}

impl Listener {
    /// What `run` tells on this thread, in the order in which spans began.
    pub fn heard(run: impl FnOnce()) -> Vec<Heard> {
        let listener = Listener::default();
        tracing::subscriber::with_default(Registry::default().with(listener.clone()), run);
        std::mem::take(&mut listener.0.lock().unwrap().heard)
    }
}

/// What `run` warns of on this thread.
pub fn warnings(run: impl FnOnce()) -> Vec<String> {
    let warnings = Warnings::default();
    tracing::subscriber::with_default(Registry::default().with(warnings.clone()), run);
    std::mem::take(&mut warnings.0.lock().unwrap())
}

#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::WARN {
            let mut fields = BTreeMap::new();
            event.record(&mut Fields(&mut fields));
            self.0.lock().unwrap().extend(fields.remove("message"));
        }
    }
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, span: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut all = self.0.lock().unwrap();
        let mut heard = Heard { name: span.metadata().name().to_owned(), ..Heard::default() };
        span.record(&mut Fields(&mut heard.fields));
        let place = all.heard.len();
        // Numbers of spans that are gone come again.
        all.places.insert(id.clone(), place);
        all.heard.push(heard);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut all = self.0.lock().unwrap();
        let place = all.places[id];
        values.record(&mut Fields(&mut all.heard[place].fields));
    }
}
