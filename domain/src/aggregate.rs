//! The form that every aggregate has: commands are decided on a state, events change it, and neither does I/O.

use chrono::{DateTime, Utc};

use crate::ids::TenantId;

/// A place in the log. Positions start at 1; 0 stands before the first event.
pub type Position = i64;

/// A command with what every decision needs to know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandEnvelope<C> {
    /// The tenant of the credential that asked. An aggregate of another tenant answers not-found.
    pub tenant_id: TenantId,
    /// The engine's time when the command was given; aggregates have no clock.
    pub at: DateTime<Utc>,
    /// The position of the event that a saga reacts to; `None` for a person's command. A saga's command whose cause
    /// is not newer than what the aggregate has already heeded is a no-op.
    pub cause: Option<Position>,
    pub command: C,
}

impl<C> CommandEnvelope<C> {
    pub fn new(tenant_id: TenantId, at: DateTime<Utc>, command: C) -> Self {
        Self { tenant_id, at, cause: None, command }
    }

    #[must_use]
    pub fn caused_by(mut self, position: Position) -> Self {
        self.cause = Some(position);
        self
    }
}

/// The pure core of an aggregate. The cqrs-es adapter of each aggregate calls these two and adds nothing.
///
/// `decide` asks in this order: another tenant's → not found; already done → no events; not allowed → error;
/// otherwise events. So a command that is given twice is a no-op, whatever happened in between.
pub trait Decider: cqrs_es::Aggregate<Services = ()> {
    fn decide(&self, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Error>;
    fn evolve(&mut self, event: &Self::Event);
}

/// The ten lines between a [`Decider`] and cqrs-es: both write paths run the same `decide` and `evolve`.
macro_rules! cqrs_aggregate {
    ($aggregate:ty, $name:literal, $command:ty, $event:ty, $error:ty) => {
        impl cqrs_es::Aggregate for $aggregate {
            const TYPE: &'static str = $name;
            type Command = $crate::aggregate::CommandEnvelope<$command>;
            type Event = $event;
            type Error = $error;
            type Services = ();

            async fn handle(
                &mut self,
                command: Self::Command,
                (): &Self::Services,
                sink: &cqrs_es::event_sink::EventSink<Self>,
            ) -> Result<(), Self::Error> {
                for event in $crate::aggregate::Decider::decide(self, &command)? {
                    sink.write(event, self).await;
                }
                Ok(())
            }

            fn apply(&mut self, event: Self::Event) {
                $crate::aggregate::Decider::evolve(self, &event);
            }
        }
    };
}
pub(crate) use cqrs_aggregate;

/// The stored name and version of each variant of an event enum, said once per variant: the name is part of the log's
/// format and survives a rename in the code.
macro_rules! stored_events {
    ($event:ident { $($variant:ident => $name:literal v $version:literal),+ $(,)? }) => {
        impl $event {
            /// The stored names of all variants, for checks that every one has what it needs.
            pub const STORED_NAMES: &'static [&'static str] = &[$($name),+];
            /// The same with the versions in which this release writes them.
            pub const STORED_VERSIONS: &'static [(&'static str, &'static str)] = &[$(($name, $version)),+];

            /// The stored name of this event.
            pub fn stored_name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name),+ }
            }
        }

        impl cqrs_es::DomainEvent for $event {
            fn event_type(&self) -> String {
                match self { $(Self::$variant { .. } => $name),+ }.to_owned()
            }

            fn event_version(&self) -> String {
                match self { $(Self::$variant { .. } => $version),+ }.to_owned()
            }
        }
    };
}
pub(crate) use stored_events;
