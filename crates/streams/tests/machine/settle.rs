//! Settling: what is picked, what it becomes, and whether the answers are those of the model.

use std::time::{Duration, Instant};

use bytes::Bytes;
use riacho_domain::{Lane, StageName};
use riacho_streams::{Action, Entry, HANDED_BACK, Settlement, Target};

use crate::{
    driver::{Delivery, Driver, Step, body, ensure},
    model::{Asked, Expected, Hold, Output, Wanted},
    op::{Deed, Of, Pick, STAGES},
};

impl Driver {
    pub(crate) async fn settle(&mut self, stage: StageName, by: &'static str, picks: &[Pick]) -> Step {
        let (mut settlements, mut asked) = (Vec::new(), Vec::new());
        for pick in picks {
            let known = self.deliveries.iter().rev().filter(|known| known.stage == stage);
            let known: Vec<_> = known.filter(|known| self.is_of(known, by, pick.of)).collect();
            let Some(delivery) = known.get(pick.back).or(known.last()) else { continue };
            let (entry, name) = (delivery.entry.clone(), delivery.name.clone());
            let (action, wanted) = self.action(stage, by, &entry, &pick.deed);
            asked.push(Asked {
                lane: entry.lane,
                id: entry.id.clone(),
                deliveries: entry.deliveries,
                action: wanted,
            });
            settlements.push(Settlement::of(&entry, &name, action));
        }
        let start = Instant::now();
        let answers = self.server.streams.handoff(0, stage, by, &settlements).await;
        let answers = answers.map_err(|error| error.to_string())?;
        let names = settlements.iter().map(|settlement| settlement.envelope_id.clone());
        let names: Vec<String> = names.collect();
        let expected = self.model.settle(stage, by, &asked);
        let as_expected = expected.iter().zip(&answers).all(|(expected, answer)| expected.is_met_by(answer));
        ensure!(as_expected, "answered {answers:?}, expected {expected:?} for {asked:?}");
        for ((one, name), answer) in asked.iter().zip(names).zip(expected) {
            if answer == Expected::Done {
                self.settled(stage, one, name, start);
            }
        }
        Ok(())
    }

    fn is_of(&self, delivery: &Delivery, by: &str, of: Of) -> bool {
        let Delivery { stage, entry, .. } = delivery;
        let hold = Some(Hold { consumer: by.to_owned(), deliveries: entry.deliveries });
        let standing = &self.model.streams[&Target::Work(*stage, entry.lane)].entries;
        match of {
            Of::Held => standing.iter().any(|standing| standing.id == entry.id && standing.hold == hold),
            Of::Own => delivery.by == by,
            Of::Any => true,
        }
    }

    /// Books a settlement that was done after `at`.
    fn settled(&mut self, stage: StageName, one: &Asked, name: String, at: Instant) {
        let place = (Target::Work(stage, one.lane), one.id.clone());
        match &one.action {
            Wanted::Defer(consumer, _) => {
                self.waits.remove(&place);
                if consumer.starts_with("retry:") {
                    self.waits.insert(place, (at, Duration::ZERO));
                }
            }
            Wanted::Done(outputs) => {
                self.accounts.entry(name).or_default().settled += 1;
                outputs.iter().for_each(|output| self.added(output));
            }
            Wanted::Emit(outputs) => outputs.iter().for_each(|output| self.added(output)),
        }
    }

    /// The action of a deed, for the crate and for the model.
    fn action(&mut self, stage: StageName, by: &str, entry: &Entry, deed: &Deed) -> (Action, Wanted) {
        let count = |counts: &bool| entry.deliveries.saturating_sub(u32::from(!*counts));
        match deed {
            Deed::Done(outputs) => {
                let (made, outputs) = self.outputs(stage, outputs);
                (Action::Done(made), Wanted::Done(outputs))
            }
            Deed::Emit(outputs) => {
                let (made, outputs) = self.outputs(stage, outputs);
                (Action::Emit(made), Wanted::Emit(outputs))
            }
            Deed::Dead(bytes) => {
                let (made, output) = self.output(Target::Dead, *bytes);
                (Action::Done(vec![(Target::Dead, made)]), Wanted::Done(vec![output]))
            }
            Deed::Retry(class, counts) => {
                let wanted = Wanted::Defer(class.consumer().to_owned(), count(counts));
                (Action::Retry(*class, count(counts)), wanted)
            }
            Deed::HandBack(counts) => {
                (Action::HandBack(count(counts)), Wanted::Defer(HANDED_BACK.to_owned(), count(counts)))
            }
            Deed::Mark(count) => (Action::Mark(*count), Wanted::Defer(by.to_owned(), *count)),
        }
    }

    /// Outputs for the next stage; the last one of the machine has none.
    fn outputs(&mut self, stage: StageName, wanted: &[(Lane, usize)]) -> (Vec<(Target, Bytes)>, Vec<Output>) {
        let wanted = if stage == STAGES[0] { wanted } else { &[] };
        wanted
            .iter()
            .map(|(lane, bytes)| self.output(Target::Work(STAGES[1], *lane), *bytes))
            .map(|(made, output)| ((output.0, made), output))
            .unzip()
    }

    fn output(&mut self, target: Target, bytes: usize) -> (Bytes, Output) {
        self.names += 1;
        let name = format!("<output--{:04}>", self.names);
        let body = body(&name, bytes);
        let length = body.len();
        (Bytes::from(body), (target, name, length))
    }
}
