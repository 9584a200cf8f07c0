//! W3C Trace Context: where something stands in a trace, as text.

use std::{fmt, str::FromStr};

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// A `traceparent` of version 00: a trace, a span of it, and whether it is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    trace: TraceId,
    span: SpanId,
    flags: u8,
}

impl Traceparent {
    /// The place of a span that is recorded nowhere: in the trace of `parent`, as sampled as that; without one in a
    /// trace of its own.
    #[must_use]
    pub fn unrecorded(parent: Option<Traceparent>, sampled: bool) -> Traceparent {
        // Never zero, which means that there is none.
        let span = SpanId::from_bytes(rand::random_range(1..=u64::MAX).to_be_bytes());
        let (trace, flags) = parent.map_or_else(
            || (TraceId::from_bytes(rand::random_range(1..=u128::MAX).to_be_bytes()), u8::from(sampled)),
            |parent| (parent.trace, parent.flags),
        );
        Traceparent { trace, span, flags }
    }

    /// The 32 hex digits of the trace.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace.to_string()
    }

    pub(crate) fn of(context: &SpanContext) -> Traceparent {
        let (trace, span) = (context.trace_id(), context.span_id());
        Traceparent { trace, span, flags: context.trace_flags().to_u8() }
    }

    pub(crate) fn context(self) -> SpanContext {
        let flags = TraceFlags::new(self.flags);
        SpanContext::new(self.trace, self.span, flags, true, TraceState::NONE)
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for Traceparent {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let mut parts = text.trim().split('-');
        let mut next = || parts.next().ok_or(());
        let (version, trace, span, flags) = (next()?, next()?, next()?, next()?);
        let fits = version == "00" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        if !fits || parts.next().is_some() {
            return Err(());
        }
        let trace = TraceId::from_hex(trace).map_err(|_| ())?;
        let span = SpanId::from_hex(span).map_err(|_| ())?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| ())?;
        let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        is_valid.then_some(Traceparent { trace, span, flags }).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_and_written() {
        let parent: Traceparent = PARENT.parse().unwrap();
        assert_eq!(parent.to_string(), PARENT);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(Traceparent::of(&parent.context()), parent);
    }

    #[test]
    fn what_is_no_parent_is_refused() {
        for wrong in [
            "",
            "00-xyz",
            &PARENT.to_uppercase(),
            &PARENT.replace("00-4", "01-4"),
            &format!("{PARENT}-00"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
        ] {
            assert!(wrong.parse::<Traceparent>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_recorded_stays_in_its_parents_trace() {
        let parent: Traceparent = PARENT.replace("-01", "-00").parse().unwrap();
        let own = Traceparent::unrecorded(Some(parent), true);
        assert_eq!((own.trace, own.flags), (parent.trace, 0));
        assert_ne!(own.span, parent.span);
        let root = Traceparent::unrecorded(None, true);
        assert!(root.to_string().parse::<Traceparent>() == Ok(root) && root.to_string().ends_with("-01"));
    }
}
