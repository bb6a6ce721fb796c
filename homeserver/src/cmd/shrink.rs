//! `mangrove shrink-picture`: not for people. The node calls it to look at strangers' pictures outside its own process.

use clap::Args;

use super::CmdError;
use crate::media::{self, Method, Size};

/// What small picture is wanted.
#[derive(Args, Clone, Debug)]
pub(super) struct ShrinkArgs {
    width: u32,
    height: u32,
    method: String,
    animated: String,
}

/// Reads a picture from standard input and writes a small one to standard output.
pub(super) fn shrink(args: &ShrinkArgs) -> Result<(), CmdError> {
    let size = Size {
        width: args.width.clamp(1, SIDE_MAX),
        height: args.height.clamp(1, SIDE_MAX),
        method: if args.method == "crop" { Method::Crop } else { Method::Scale },
        animated: args.animated == "true",
    };
    match media::run_contained(size) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CmdError::Failed("no small picture can be made of this".into())),
        Err(error) => Err(CmdError::Failed(format!("shrink-picture: {error}"))),
    }
}

/// Which page is read.
#[derive(Args, Clone, Debug)]
pub(super) struct PageArgs {
    address: String,
}

/// `mangrove read-page`: reads a page of the web from standard input and writes what it says of itself.
pub(super) fn read_page(args: &PageArgs) -> Result<(), CmdError> {
    media::run_page_contained(&args.address).map_err(|error| CmdError::Failed(format!("read-page: {error}")))
}

/// No small picture is larger.
const SIDE_MAX: u32 = 1_024;
