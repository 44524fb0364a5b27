-- Number of the patient of an evaluated image, so that the intervals of scores take patients and not images as the unit. It has a meaning
-- within the evaluation only and is null if the patient is unknown.
alter table outcomes add column patient integer check (patient >= 0);

-- Earlier evaluations: the patients that the radiographs have now.
with numbered as (
    select evaluations.id as evaluation_id, radiographs.sha256,
           dense_rank() over (partition by evaluations.id order by radiographs.patient_id) as patient
      from evaluations
      join radiographs on radiographs.dataset_id = evaluations.dataset_id
     where radiographs.patient_id is not null
)
update outcomes
   set patient = numbered.patient
  from numbered
 where numbered.evaluation_id = outcomes.evaluation_id and numbered.sha256 = outcomes.sha256;

-- Scores with their intervals; null for evaluations of earlier versions, until the server has computed them.
alter table evaluations add column scores_json text check (json_valid(scores_json));
create index evaluations_without_scores on evaluations (id) where scores_json is null;
