//! The five sources of COVIDx in small: columns, names and encodings as they are distributed, the images drawn.

use std::{cell::Cell, fs, path::Path};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use rust_xlsxwriter::Workbook;

use super::{
    dicom::{file, number, text},
    png,
};

/// Draws `cohen`, `fig1`, `actmed`, `radiography` and `rsna` into a folder.
pub fn draw(root: &Path) {
    let images = Images { root, shade: Cell::new(0) };
    cohen(&images);
    fig1(&images);
    actmed(&images);
    radiography(&images);
    rsna(&images);
}

struct Images<'a> {
    root: &'a Path,
    shade: Cell<u8>,
}

impl Images<'_> {
    /// Each of its own.
    fn draw(&self, folder: &str, names: &[&str]) {
        let folder = self.root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        for name in names {
            self.shade.set(self.shade.get() + 1);
            fs::write(folder.join(name), png(48, 48, self.shade.get())).unwrap();
        }
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.root.join(path), bytes).unwrap();
    }
}

/// A comma at the end of the names, a hierarchy of findings, names that differ by case and extension, a line break in a note.
fn cohen(images: &Images<'_>) {
    images.draw(
        "cohen/images",
        &[
            "auntminnie-a.jpeg",
            "b.jpg",
            "SARS-Fig5-day9.jpeg",
            "SARS-lateral.jpeg",
            "ARDSSevere.png",
            "ct.jpg",
            "e-coli.jpg",
            "ards.png",
        ],
    );
    images.write(
        "cohen/metadata.csv",
        "patientid,offset,sex,age,finding,RT_PCR_positive,survival,view,modality,date,location,folder,filename,doi,url,license,clinical_notes,other_notes,\n\
         2,0,M,65,Pneumonia/Viral/COVID-19,Y,Y,PA,X-ray,\"January 22, 2020\",\"Ho Chi Minh City, Vietnam\",images,auntminnie-a.jpeg,10.1056/x,https://www.nejm.org/doi/a,,\"a \"\"wet market\"\"\nand fever\",,\n\
         19,10,F,55,Pneumonia/Viral/COVID-19,Y,Y,AP Supine,X-ray,2020,,images,b.JPG,,https://www.sciencedirect.com/b,CC BY,,,\n\
         8,9,F,42,Pneumonia/Viral/SARS,,,PA,X-ray,2004,,images,SARS-Fig5-day9.jpeg,,https://pubs.rsna.org/c,,,,\n\
         8,9,F,42,Pneumonia/Viral/SARS,,,L,X-ray,2004,,images,SARS-lateral.jpeg,,https://pubs.rsna.org/c,,,,\n\
         5,,,,Pneumonia,,,PA,X-ray,2017,,images,ARDSSevere.png,,https://en.wikipedia.org/wiki/File:ARDSSevere.png,CC BY-SA,,,\n\
         13,4,M,35,Pneumonia/Viral/COVID-19,Y,Y,Axial,CT,2020,,images,ct.jpg,,https://www.sirm.org/only-ct,,,,\n\
         316a,0,M,70,Pneumonia/Bacterial/E.Coli,,,AP,X-ray,2020,,images,e-coli.jpeg,,https://www.eurorad.org/case/1,,,,\n\
         32,0,M,70,Pneumonia/Viral/COVID-19,Y,,PA,X-ray,2020,,images,missing.png,,https://radiopaedia.org/d,,,,\n\
         2,0,M,65,Pneumonia/Viral/COVID-19,Y,Y,PA,X-ray,2020,,images,auntminnie-a.jpeg,,https://www.nejm.org/doi/a,,,,\n\
         33,0,M,70,\"COVID-19, ARDS\",Y,,PA,X-ray,2020,,images,ards.png,,https://radiopaedia.org/e,,,,\n",
    );
}

/// In Latin-1, without names of files, which are JPEG or PNG and called by the patient; findings missing.
fn fig1(images: &Images<'_>) {
    images.draw("fig1/images", &["COVID-00001.jpg", "COVID-00002.jpg", "COVID-00003a.jpg", "COVID-00025.png"]);
    let text = "patientid,offset,sex,age,finding,survival,temperature,pO2 saturation,view,modality,artifacts/distortion,notes\n\
                COVID-00001,13,M,33,COVID-19,,,58,AP erect,X-ray,,\"39\u{b0}C, cough\"\n\
                COVID-00002,,M,50+,,,,,AP erect,X-ray,,\n\
                COVID-00003a,8,M,28,\"COVID-19,pneumothorax\",,39.1,90,AP erect,X-ray,,\n\
                COVID-00025,2,M,42,COVID-19,,,91-92,PA,X-ray,,\n";
    let latin_1: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    images.write("fig1/metadata.csv", latin_1);
}

fn actmed(images: &Images<'_>) {
    images.draw("actmed/images", &["CR.1.2.840.1.png", "CR.1.2.840.2.png", "CR.1.2.840.3.png", "CR.1.2.840.4.png"]);
    images.write(
        "actmed/metadata.csv",
        "patientid,offset,sex,age,finding,survival,temperature,pO2 saturation,view,modality,imagename,artifacts/distortion,notes\n\
         ANON196,,,,COVID-19,,,,PA,X-ray,CR.1.2.840.1.png,,\", date taken (YYYYMMDD): 20200318\"\n\
         ANON196,,,,,,,,PA,X-ray,CR.1.2.840.2.png,,\"Inconclusive\"\n\
         ANON56,,,,No finding,,,,PA,X-ray,CR.1.2.840.3.png,,\"Negative (covid-19 viral infection is excluded)\"\n\
         ANON24,,,,COVID-19,,,,AP,X-ray,CR.1.2.840.4.png,,\n",
    );
}

/// Excel files that leave out the brackets of the names, one address that cohen has too, one name that is excluded.
fn radiography(images: &Images<'_>) {
    images.draw("radiography/COVID", &["COVID (1).png", "COVID (2).png", "COVID (70).png", "COVID (100).png"]);
    images.draw("radiography/Viral_Pneumonia/images", &["Viral Pneumonia-1.png", "Viral Pneumonia-2.png"]);
    let covid = [
        ["COVID 1", "PNG", "1024*1024", "https://sirm.org/1"],
        ["COVID 2", "PNG", "1024*1024", "https://www.nejm.org/doi/a"],
        ["COVID 70", "PNG", "1024*1024", "https://sirm.org/1"],
        ["COVID (100)", "PNG", "1024*1024", "https://sirm.org/100"],
        ["COVID 9", "PNG", "1024*1024", "https://sirm.org/9"],
    ];
    sheet(&images.root.join("radiography/COVID.metadata.xlsx"), &covid);
    let viral = [
        ["Viral Pneumonia-1", "PNG", "256*256", "https://kaggle"],
        ["Viral Pneumonia-2", "PNG", "256*256", "https://kaggle"],
    ];
    sheet(&images.root.join("radiography/Viral Pneumonia.metadata.xlsx"), &viral);
}

fn sheet(path: &Path, rows: &[[&str; 4]]) {
    let mut book = Workbook::new();
    let sheet = book.add_worksheet();
    sheet.write_row(0, 0, ["FILE NAME", "FORMAT", "SIZE", "URL"]).unwrap();
    for (line, row) in (1..).zip(rows) {
        sheet.write_row(line, 0, *row).unwrap();
    }
    book.save(path).unwrap();
}

/// A row a box; ten normal patients, two with opacities, one with neither; one file that is no image.
fn rsna(images: &Images<'_>) {
    let normal: Vec<String> = (1..=10).map(|number| format!("n{number:02}")).collect();
    fs::create_dir_all(images.root.join("rsna/stage_2_train_images")).unwrap();
    for (shade, name) in (0..).zip(normal.iter().map(String::as_str).chain(["o1", "o2", "x1"])) {
        images.write(&format!("rsna/stage_2_train_images/{name}.dcm"), dicom(name, shade));
    }
    images.write("rsna/stage_2_train_images/n11.dcm", "no image");
    let mut detailed = "patientId,class\n".to_owned();
    let mut labels = "patientId,x,y,width,height,Target\n".to_owned();
    for name in &normal {
        detailed += &format!("{name},Normal\n");
        labels += &format!("{name},,,,,0\n");
    }
    detailed += "n11,Normal\no1,Lung Opacity\no1,Lung Opacity\nx1,No Lung Opacity / Not Normal\no2,Lung Opacity\n";
    labels += "o1,264.0,152.0,213.0,379.0,1\no1,562.0,152.0,256.0,453.0,1\nx1,,,,,0\no2,323.0,577.0,160.0,104.0,1\n";
    images.write("rsna/stage_2_detailed_class_info.csv", detailed);
    images.write("rsna/stage_2_train_labels.csv", labels);
}

/// As the challenge has them: eight bits, no window, the patient's number as name and everywhere else.
fn dicom(patient: &str, shade: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..64 * 64).map(|at: u32| shade + (at % 64) as u8 * 3).collect();
    file(InMemDicomObject::from_element_iter([
        text(tags::SOP_CLASS_UID, VR::UI, uids::SECONDARY_CAPTURE_IMAGE_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, &format!("1.2.276.0.7230010.3.1.4.{shade}")),
        text(tags::MODALITY, VR::CS, "CR"),
        text(tags::PATIENT_NAME, VR::PN, patient),
        text(tags::PATIENT_ID, VR::LO, patient),
        text(tags::BODY_PART_EXAMINED, VR::CS, "CHEST"),
        text(tags::VIEW_POSITION, VR::CS, "PA"),
        number(tags::SAMPLES_PER_PIXEL, 1),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        number(tags::ROWS, 64),
        number(tags::COLUMNS, 64),
        number(tags::BITS_ALLOCATED, 8),
        number(tags::BITS_STORED, 8),
        number(tags::HIGH_BIT, 7),
        number(tags::PIXEL_REPRESENTATION, 0),
        DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(pixels.into())),
    ]))
}
