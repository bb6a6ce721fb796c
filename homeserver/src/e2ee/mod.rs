//! End-to-end encryption as a server sees it: keys kept and handed out, lists of devices, messages to devices.

pub mod object;
