import { trainers } from './trainer.ts'

/** Flags that upstream's trainers had at commits whose parsers are not in the table: names alone. Source: every version of every trainer in its history. */
const elsewhere = `
  Semantic_expansion_ratio Semantic_ratio adapt_vae atol attention-mode attention_bias background_ratio bbox_ratio caption_column
  center_crop cfg-scale ckpt ckpt-every ckpt_every clip-grad-norm clip_loss_lambda clip_max_norm cogvideox_schedule compress-kv csv-
  path csv_path data-path database dataset_config_name dataset_name diffusion-form diffusion-norm dynamic-frames enable_bucket
  enable_npu_flash_attention enable_xformers_memory_efficient_attention eval_deepspeed_config_file extras fixed_bg_ratio fixed_ratio
  fixed_spatial global-batch-size global-seed global_seed gradient-accumulation-steps gradient-checkpointing half_vae image-size
  image_column image_data_path image_data_ratio image_encoder_name image_encoder_path image_encoder_type image_folder image_size is-
  image knn last-step last-step-size learn_sigma likelihood local-batch-size local_batch_size log-every log_every lora_out_path
  loss-weight loss_save_path lr-warmup-steps max-image-size max-train-steps max_bucket_reso max_clear_ratio
  max_data_loader_n_workers max_height_for_img max_sequence_length max_token_length max_token_lim max_train_samples
  max_width_for_img min_bucket_reso min_clear_ratio min_height min_mask_ratio min_width mixed-precision model-max-length model_base
  model_path model_type need_validation no_half_vae num-classes num-frames num-workers num_test_samples num_validation_images path-
  type prediction pretrained_model_path pretrained_vae_model_name_or_path pretrained_vip_adapter_path proportion_empty_prompts pt-
  ckpt random_flip results-dir results_dir resume-from-checkpoint reverse revision rtol sample-eps sample-every sample-n-frames
  sample-rate sample-size sample-stride sampling-method save_ceph skip_low_resolution sparse2d sparse_k support_dreambooth
  support_dropout t2v_ratio target_path temproal-size text-encoder-name tile_sample_min_size tile_sample_min_size_t
  token_dropout_rate tokenizer_cache_dir train-eps train_data_dir train_deepspeed_config_file train_vip use-compile use-ema
  use_clip_mask use_compile use_motion vae validation_dir validation_epochs validation_prompt variant video-folder video_data_path
  video_length vip_num_attention_heads wandb yolomodel_pathorname zero_terminal_snr
`

let known: ReadonlySet<string> | undefined

/** True for a flag that some trainer of upstream had at some time. */
export function wasEverAFlag(name: string): boolean {
  known ??= new Set([...elsewhere.trim().split(/\s+/), ...trainers.flatMap(({ flags }) => Object.keys(flags))])
  return known.has(name)
}
