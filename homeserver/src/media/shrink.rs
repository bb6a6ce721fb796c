//! Makes a picture small: decodes under limits, scales, encodes. Called in a process of its own (see `contain.rs`), since
//! what it reads comes from strangers.

use std::io::Cursor;

use fast_image_resize::{ResizeAlg, ResizeOptions, Resizer};
use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageFormat, ImageReader, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::PngDecoder,
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

/// How a picture is fitted into a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Whole, inside it.
    Scale,
    /// Filling it, cut at the edges.
    Crop,
}

/// How large a small picture is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// How to fit.
    pub method: Method,
    /// Whether one that moves may move on.
    pub animated: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shrunk {
    /// It is no larger than asked for: the original does.
    Small,
    /// A smaller one: (bytes, type).
    Made(Vec<u8>, &'static str),
    /// No picture, or one too large to look at.
    NoPicture,
}

/// Makes a picture small.
pub(super) fn shrink(bytes: &[u8], size: Size) -> Shrunk {
    try_shrink(bytes, size).unwrap_or(Shrunk::NoPicture)
}

fn try_shrink(bytes: &[u8], size: Size) -> Option<Shrunk> {
    let format = image::guess_format(bytes).ok()?;
    let moves = moves(bytes, format);
    if moves && size.animated {
        let animation = animate(bytes, format, size);
        if animation.is_some() {
            return animation;
        }
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return None;
    }
    if width <= size.width && height <= size.height && !moves {
        return Some(Shrunk::Small);
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).ok()?;
    // Of what is transparent the edges would get dark otherwise; 8 bits a colour are enough for a small picture.
    picture =
        if picture.color().has_alpha() { picture.into_rgba8().into() } else { picture.into_rgb8().into() };
    let turned = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    // Scaled first and turned then: there is less to turn.
    let lying = if turned { Size { width: size.height, height: size.width, ..size } } else { size };
    let mut small = fit(&picture, lying)?;
    small.apply_orientation(orientation);
    let mut out = Cursor::new(Vec::new());
    // What was drawn stays sharp, and what is seen through stays so; photographs are made small.
    if format == ImageFormat::Png || small.color().has_alpha() {
        small.write_to(&mut out, ImageFormat::Png).ok()?;
        return Some(Shrunk::Made(out.into_inner(), "image/png"));
    }
    small.write_with_encoder(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY)).ok()?;
    Some(Shrunk::Made(out.into_inner(), "image/jpeg"))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    limits
}

/// Whether a picture may have more than one frame.
fn moves(bytes: &[u8], format: ImageFormat) -> bool {
    let cursor = Cursor::new(bytes);
    match format {
        ImageFormat::Gif => true,
        ImageFormat::WebP => WebPDecoder::new(cursor).is_ok_and(|decoder| decoder.has_animation()),
        ImageFormat::Png => {
            PngDecoder::with_limits(cursor, limits()).is_ok_and(|decoder| decoder.is_apng().unwrap_or(false))
        }
        _ => false,
    }
}

/// A small picture that moves. `None`: it has one frame, too many, or is broken; a still one may be made of it.
fn animate(bytes: &[u8], format: ImageFormat, size: Size) -> Option<Shrunk> {
    let cursor = Cursor::new(bytes);
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(cursor).ok()?;
            decoder.set_limits(limits()).ok()?;
            encode(checked(&decoder, size)?, decoder.into_frames(), size)
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(cursor).ok()?;
            decoder.set_limits(limits()).ok()?;
            encode(checked(&decoder, size)?, decoder.into_frames(), size)
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(cursor, limits()).ok()?;
            let pixels = checked(&decoder, size)?;
            encode(pixels, decoder.apng().ok()?.into_frames(), size)
        }
        _ => None,
    }
}

/// Pixels of a frame, if they are not too many; and whether they fit the size already.
fn checked(decoder: &impl ImageDecoder, size: Size) -> Option<(u64, bool)> {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    (pixels <= PIXELS_MAX).then_some((pixels, width <= size.width && height <= size.height))
}

fn encode((pixels, fits): (u64, bool), frames: Frames<'_>, size: Size) -> Option<Shrunk> {
    if fits {
        return Some(Shrunk::Small);
    }
    let mut out = Vec::new();
    let (mut count, mut looked_at) = (0_usize, 0_u64);
    {
        let mut encoder = GifEncoder::new_with_speed(&mut out, GIF_SPEED);
        encoder.set_repeat(Repeat::Infinite).ok()?;
        for frame in frames {
            let frame = frame.ok()?;
            (count, looked_at) = (count + 1, looked_at + pixels);
            if count > FRAMES_MAX || looked_at > ANIMATION_PIXELS_MAX {
                return None;
            }
            let delay = frame.delay();
            let small = fit(&frame.into_buffer().into(), size)?.into_rgba8();
            encoder.encode_frame(Frame::from_parts(small, 0, 0, delay)).ok()?;
        }
    }
    (count > 1 && out.len() <= ANIMATION_BYTES_MAX).then_some(Shrunk::Made(out, "image/gif"))
}

/// Scales a picture into a size, never up.
fn fit(picture: &DynamicImage, size: Size) -> Option<DynamicImage> {
    let (width, height) = (picture.width(), picture.height());
    let (mut options, target) = match size.method {
        Method::Scale => {
            let scale = (f64::from(size.width) / f64::from(width))
                .min(f64::from(size.height) / f64::from(height))
                .min(1.0);
            let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
            (ResizeOptions::new(), (side(width), side(height)))
        }
        Method::Crop => (
            ResizeOptions::new().fit_into_destination(None),
            (size.width.min(width), size.height.min(height)),
        ),
    };
    options = options.resize_alg(ResizeAlg::Convolution(fast_image_resize::FilterType::Bilinear));
    let mut small = DynamicImage::new(target.0, target.1, picture.color());
    Resizer::new().resize(picture, &mut small, &options).ok()?;
    Some(small)
}

/// The longest side decoded.
const SIDE_MAX: u32 = 16_384;
/// More pixels than any phone's camera makes by default.
const PIXELS_MAX: u64 = 28_000_000;
/// What a decoder may allocate.
const DECODE_BYTES_MAX: u64 = 128 << 20;
const JPEG_QUALITY: u8 = 80;
/// A minute at five frames a second. What has more gets a still picture.
const FRAMES_MAX: usize = 300;
/// Pixels of all frames: about two seconds' work.
const ANIMATION_PIXELS_MAX: u64 = 200_000_000;
/// A small picture that is larger serves nobody.
const ANIMATION_BYTES_MAX: usize = 4 << 20;
/// Of 1 to 30: the faster, the coarser the colours.
const GIF_SPEED: i32 = 20;

#[cfg(test)]
mod tests {
    use image::{Delay, RgbaImage};

    use super::*;

    const SIZE: Size = Size { width: 32, height: 32, method: Method::Crop, animated: false };

    fn gif(frames: u8, side: u32) -> Vec<u8> {
        let mut out = Vec::new();
        {
            let mut encoder = GifEncoder::new(&mut out);
            for n in 0..frames {
                let picture =
                    RgbaImage::from_pixel(side, side, image::Rgba([n.wrapping_mul(40), 90, 0, 255]));
                let delay = Delay::from_numer_denom_ms(100, 1);
                encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).unwrap();
            }
        }
        out
    }

    fn frames(gif: &[u8]) -> usize {
        GifDecoder::new(Cursor::new(gif)).unwrap().into_frames().count()
    }

    #[test]
    fn what_moves_moves_on_only_if_asked() {
        let original = gif(5, 64);
        let Shrunk::Made(still, "image/png") = shrink(&original, SIZE) else { panic!("a still picture") };
        assert_eq!(image::load_from_memory(&still).unwrap().width(), 32);
        let Shrunk::Made(moving, "image/gif") = shrink(&original, Size { animated: true, ..SIZE }) else {
            panic!("a picture that moves")
        };
        assert_eq!(frames(&moving), 5);
        assert_eq!(image::load_from_memory(&moving).unwrap().height(), 32);
        // One frame does not move; a small one that moves stays what it is, if it may.
        assert!(matches!(shrink(&gif(1, 64), Size { animated: true, ..SIZE }), Shrunk::Made(_, "image/png")));
        assert_eq!(shrink(&gif(2, 16), Size { animated: true, ..SIZE }), Shrunk::Small);
        assert!(matches!(shrink(&gif(2, 16), SIZE), Shrunk::Made(_, "image/png")));
    }

    #[test]
    fn too_many_frames_become_a_still_picture() {
        let many = gif(u8::MAX, 40).len();
        assert!(many < 1 << 20);
        let mut out = Vec::new();
        {
            let mut encoder = GifEncoder::new(&mut out);
            for _ in 0..=FRAMES_MAX {
                encoder.encode_frame(Frame::new(RgbaImage::new(40, 40))).unwrap();
            }
        }
        assert!(matches!(shrink(&out, Size { animated: true, ..SIZE }), Shrunk::Made(_, "image/png")));
    }

    #[test]
    fn nonsense_and_cut_off_pictures_are_none() {
        let whole = gif(3, 64);
        for end in [0, 3, 10, 40] {
            assert_eq!(shrink(&whole[..end.min(whole.len())], SIZE), Shrunk::NoPicture, "{end}");
        }
        assert_eq!(shrink(b"not a picture at all, only text", SIZE), Shrunk::NoPicture);
    }
}
