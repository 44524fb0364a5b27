-- Darkest and brightest grey level, 0 to 255, of the image as its file declares them; null for radiographs from before this was stored.
alter table radiographs add column grey_low integer check (grey_low between 0 and 255);
alter table radiographs add column grey_high integer check (grey_high between grey_low and 255);
