//! Pixels of images in the formats of files: a function on the host, with the feature `images`.
//!
//! JPEG is decoded as libjpeg-turbo does it, to the bit, which is what the standard asks for. Of 8 bits a channel all are RGB or grey; an
//! alpha channel is left out.

use super::{chosen, node::Node};
use crate::{dtype::DType, error::Error, import::host::Datum, shape::Type, tensor::Tensor};

/// A progressive image may pass over all of its pixels again in a few bytes.
#[cfg(feature = "images")]
const MAX_SCANS: usize = 256;

/// Rows of pixels, three bytes each: red, green, blue.
struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

pub fn image_decoder(n: &Node, given: &[Option<Datum>]) -> Result<Vec<Datum>, Error> {
    let x = chosen::tensor(n, given, 0)?;
    if x.dtype() != DType::U8 || x.shape().rank() != 1 {
        return Err(n.error(format!("{} is no file's bytes", x.ty())));
    }
    let format = n.text("pixel_format", "RGB")?;
    let channels = match format {
        "RGB" | "BGR" => 3,
        "Grayscale" => 1,
        other => return Err(n.error(format!("pixel_format '{other}'"))),
    };
    let Pixels { width, height, mut rgb } = pixels(n, x.data())?;
    match format {
        "BGR" => rgb.chunks_exact_mut(3).for_each(|it| it.swap(0, 2)),
        "Grayscale" => rgb = rgb.chunks_exact(3).map(grey).collect(),
        _ => {}
    }
    let made = Tensor::new(Type::new(DType::U8, [height, width, channels]), rgb.into());
    Ok(vec![Datum::Tensor(made.ok_or_else(|| n.error("the image has another size than it says"))?)])
}

/// ITU-R 601-2, in 16 bits behind the point.
fn grey(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

#[cfg(not(feature = "images"))]
fn pixels(n: &Node, _: &[u8]) -> Result<Pixels, Error> {
    Err(n.unsupported("wgfuse was built without its feature `images`"))
}

#[cfg(feature = "images")]
fn pixels(n: &Node, bytes: &[u8]) -> Result<Pixels, Error> {
    let made = match bytes {
        [0xff, 0xd8, 0xff, ..] => jpeg(n, bytes)?,
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => jpeg_2000(n, bytes)?,
        _ => others(n, bytes)?,
    };
    Ok(made)
}

/// Refuses an image before memory is asked for: `each` bytes a pixel while it is decoded.
#[cfg(feature = "images")]
fn room(n: &Node, width: usize, height: usize, each: u64) -> Result<(), Error> {
    let need = (width as u64).saturating_mul(height as u64).saturating_mul(each);
    match need > n.most {
        true => Err(Error::MemoryLimit { at: format!("the image of node '{}'", n.name), need, have: n.most }),
        false => Ok(()),
    }
}

#[cfg(feature = "images")]
fn jpeg(n: &Node, bytes: &[u8]) -> Result<Pixels, Error> {
    use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};
    let broken =
        |it: libjpeg_turbo_rs::JpegError| n.error(format!("a JPEG image that cannot be decoded: {it}"));
    let size = libjpeg_turbo_rs::probe(bytes).map_err(broken)?;
    // Coefficients of three channels, samples, pixels.
    room(n, size.width, size.height, 12)?;
    let limits = DecodeLimits { max_memory: Some(n.most), max_scans: MAX_SCANS, ..DecodeLimits::default() };
    let decoder = Decoder::new_with_limits(bytes, limits).map_err(broken)?;
    let made = decoder.with_output_format(PixelFormat::Rgb).decode_image().map_err(broken)?;
    Ok(Pixels { width: made.width, height: made.height, rgb: made.data })
}

#[cfg(feature = "images")]
fn jpeg_2000(n: &Node, bytes: &[u8]) -> Result<Pixels, Error> {
    use hayro_jpeg2000::{ColorSpace, DecodeSettings, DecoderContext, Image};
    let broken =
        |it: hayro_jpeg2000::DecodeError| n.error(format!("a JPEG 2000 image that cannot be decoded: {it}"));
    let image = Image::new(bytes, &DecodeSettings { strict: true, ..Default::default() }).map_err(broken)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let colours = usize::from(image.color_space().num_channels());
    let all = colours + usize::from(image.has_alpha());
    if image.original_bit_depth() != 8 || !matches!(image.color_space(), ColorSpace::Gray | ColorSpace::RGB) {
        return Err(n.unsupported("a JPEG 2000 image that is not of 8 bits, RGB or grey"));
    }
    // Coefficients and samples of a channel, each of four bytes.
    room(n, width, height, 16 * all as u64)?;
    let mut context = DecoderContext::default();
    let data = image.decode(&mut context).map_err(broken)?.data_u8();
    let rgb =
        data.chunks_exact(all).flat_map(|it| if colours == 1 { [it[0]; 3] } else { [it[0], it[1], it[2]] });
    Ok(Pixels { width, height, rgb: rgb.collect() })
}

#[cfg(feature = "images")]
fn others(n: &Node, bytes: &[u8]) -> Result<Pixels, Error> {
    use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
    let broken = |it: image::ImageError| n.error(format!("an image that cannot be decoded: {it}"));
    let format =
        image::guess_format(bytes).map_err(|_| n.error("the bytes are of no image of a known format"))?;
    let known = [ImageFormat::Bmp, ImageFormat::Png, ImageFormat::Pnm, ImageFormat::Tiff, ImageFormat::WebP];
    if !known.contains(&format) {
        return Err(n.unsupported(format!("an image of the format {format:?}")));
    }
    let mut reader = ImageReader::with_format(std::io::Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(n.most);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    room(n, width as usize, height as usize, 8)?;
    let colours = decoder.color_type();
    if !matches!(colours, ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8) {
        return Err(n.unsupported(format!("an image of colours {colours:?}, which are not of 8 bits")));
    }
    let made = DynamicImage::from_decoder(decoder).map_err(broken)?.into_rgb8();
    Ok(Pixels { width: width as usize, height: height as usize, rgb: made.into_raw() })
}
