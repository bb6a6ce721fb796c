//! A function per endpoint: check, one verb, reply. No store, no event logic.

pub mod admin;
pub mod client;
pub mod federation;
pub(crate) mod oauth;
mod pages;
pub mod routes;
pub mod wellknown;
pub mod x;

pub(crate) use pages::TERMS_PATH;

#[cfg(test)]
pub(crate) mod tests;
