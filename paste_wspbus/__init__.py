"""The Web Site Process Bus for PasteDeploy sites."""
