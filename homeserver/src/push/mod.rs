//! Which events notify whom: rules and, at each event's write, the counts that follow from them.

pub mod rules;
