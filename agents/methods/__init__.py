"""The methods by short name: what the command line offers, resolved like any other plug."""

SHORT = {
    "grpo": "agents.methods.grpo:GRPO",
    "dr_grpo": "agents.methods.grpo:DrGRPO",
    "dapo": "agents.methods.grpo:DAPO",
    "rloo": "agents.methods.grpo:RLOO",
    "craft": "agents.methods.craft:CRAFT",
    "sgcd": "agents.methods.sgcd:SGCD",
    "hsd": "agents.methods.hsd:HSD",
    "adaptive_cringe": "agents.methods.adaptive_cringe:AdaptiveCRINGE",
    "token_cringe": "agents.methods.adaptive_cringe:TokenCRINGE",
    "sdar": "agents.methods.sdar:SDAR",
    "grpo_opsd": "agents.methods.sdar:GRPOWithOPSD",
    "grpo_mixed_opsd": "agents.methods.opsd:GRPOMixedOPSD",
    "opsd": "agents.methods.opsd:OPSD",
    "sdpo": "agents.methods.sdpo:SDPO",
    "rlsd": "agents.methods.rlsd:RLSD",
    "skill_sd": "agents.methods.skill_sd:SkillSD",
    "sc_grpo": "agents.methods.sc_grpo:SCGRPO",
}
