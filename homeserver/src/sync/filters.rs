//! Filters that clients keep here to name them in syncs.

use ruma::{UserId, api::client::filter::FilterDefinition};

use crate::store::{Kind, Store, StoreError, schema::filters as table};

/// Filters of one user; beyond, the oldest go. A client has two or three.
const FILTERS_MAX: u32 = 100;
/// The longest definition, in bytes.
pub const FILTER_BYTES_MAX: usize = 64 * 1024;

/// Kept filters. Clones share them.
#[derive(Clone)]
pub struct Filters {
    store: Store,
}

/// Why a filter is not kept or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// No filter of this user has this id.
    #[error("there is no filter with that id; upload it again")]
    Unknown,
    /// Longer than any real one.
    #[error("a filter has at most {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// Not a filter.
    #[error("the filter is not understood: {0}")]
    Invalid(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Filters {
    /// The filters in a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Keeps a filter and gives its id: the same for the same filter.
    pub async fn create(&self, user: &UserId, definition: &FilterDefinition) -> Result<String, FilterError> {
        let json =
            serde_json::to_string(definition).map_err(|error| FilterError::Invalid(error.to_string()))?;
        if json.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLarge { max: FILTER_BYTES_MAX });
        }
        // Ids that begin with a brace would be taken for filters themselves; hex does not.
        let id = blake3::hash(json.as_bytes()).to_hex()[..16].to_owned();
        let (user, made) = (user.to_owned(), id.clone());
        self.store
            .write(move |tx| {
                let nid = tx.intern(Kind::User, user.as_str())?;
                let seq = tx.next_seq()?;
                table::put(tx, nid, &made, seq, &json, FILTERS_MAX)
            })
            .await?;
        Ok(id)
    }

    /// A filter by its id.
    pub async fn find(&self, user: &UserId, id: &str) -> Result<FilterDefinition, FilterError> {
        let (user, id) = (user.to_owned(), id.to_owned());
        let json = self
            .store
            .read(move |tx| match tx.lookup(Kind::User, user.as_str())? {
                Some(nid) => table::find(tx, nid, &id),
                None => Ok::<_, StoreError>(None),
            })
            .await?;
        let json = json.ok_or(FilterError::Unknown)?;
        serde_json::from_str(&json).map_err(|error| FilterError::Invalid(error.to_string()))
    }
}
