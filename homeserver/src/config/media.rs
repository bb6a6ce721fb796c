//! `[media]`: uploads, copies of other servers' media, previews of links.

use clap::Args;
use serde::Deserialize;

use super::ConfigError;

/// The flags of the section; in the file they stand under `[media]`.
#[derive(Args, Clone, Debug, Default)]
pub struct MediaFlags {
    /// Largest file that users may upload, in MiB [default: 50]
    #[arg(id = "upload_max", long = "upload-max", value_name = "MIB", env = "MANGROVE_UPLOAD_MAX")]
    pub upload_max: Option<u64>,
    /// Disk for copies of other servers' media, in MiB; those not asked for the longest go [default: 1024]
    #[arg(id = "media_cache", long = "media-cache", value_name = "MIB", env = "MANGROVE_MEDIA_CACHE")]
    pub media_cache: Option<u64>,
    /// Fetch links that users ask about, and tell what the pages say of themselves
    #[arg(id = "url_previews", long = "url-previews", env = "MANGROVE_URL_PREVIEWS")]
    pub url_previews: bool,
    /// Let previews reach into the network that this node stands in (for tests)
    #[arg(
        id = "url_preview_private_addresses",
        long = "url-preview-private-addresses",
        env = "MANGROVE_URL_PREVIEW_PRIVATE_ADDRESSES"
    )]
    pub url_preview_private_addresses: bool,
}

/// The section of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MediaFile {
    upload_max: Option<u64>,
    media_cache: Option<u64>,
    url_previews: Option<bool>,
    url_preview_private_addresses: Option<bool>,
}

/// The section in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaSettings {
    /// Largest upload in bytes.
    pub upload_bytes_max: u64,
    /// Bytes of others' media on disk.
    pub cache_bytes_max: u64,
    /// Whether links are fetched for previews.
    pub url_previews: bool,
    /// Whether previews reach into the own network, too.
    pub url_preview_private_addresses: bool,
}

/// A terabyte: a slip, or a case for another kind of storage.
const MIB_MAX: u64 = 1 << 20;

impl MediaSettings {
    pub(super) fn load(flags: &MediaFlags, file: &MediaFile) -> Result<Self, ConfigError> {
        let mib = |name: &str, value: Option<u64>, default: u64| match value.unwrap_or(default) {
            value @ 1..=MIB_MAX => Ok(value << 20),
            value => {
                Err(ConfigError(format!("{name} {value}: in MiB, 1 to {MIB_MAX}; e.g. {name} = {default}")))
            }
        };
        Ok(Self {
            upload_bytes_max: mib("upload_max", flags.upload_max.or(file.upload_max), 50)?,
            cache_bytes_max: mib("media_cache", flags.media_cache.or(file.media_cache), 1024)?,
            url_previews: flags.url_previews || file.url_previews.unwrap_or(false),
            url_preview_private_addresses: flags.url_preview_private_addresses
                || file.url_preview_private_addresses.unwrap_or(false),
        })
    }
}
